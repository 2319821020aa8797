# How tests are declared. A test is a program that exits 0 exactly when it passed, or a script of tests/ that does.

set(FLASH_ATTN_TEST_TIMEOUT 300 CACHE STRING "Seconds a test may run")

# flash_attn_add_test(<name> SOURCES <file>... [LINK internal|shared] [LABELS <label>...] [ARGS <arg>...] [TIMEOUT <seconds>])
# LINK internal (the default) links the objects and sees src/; LINK shared sees only what a user of the shared library sees.
function(flash_attn_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 test "" "LINK;TIMEOUT" "SOURCES;LABELS;ARGS;LIBRARIES;DEFINITIONS")
  add_executable(${name} ${test_SOURCES})
  flash_attn_compile_options(${name})
  flash_attn_self_contained(${name})
  # Tests spend their time in the library and the oracle; what they save here is building time.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE ${test_DEFINITIONS} FLASH_ATTN_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  if(test_LINK STREQUAL shared)
    target_link_libraries(${name} PRIVATE ${test_LIBRARIES} flash_attn_cases flash_attn)
  else()
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(${name} PRIVATE ${test_LIBRARIES} flash_attn_cases flash_attn_static)
  endif()
  add_test(NAME ${name} COMMAND ${name} ${test_ARGS})
  flash_attn_test_properties(${name} "${test_TIMEOUT}" ${test_LABELS})
endfunction()

# flash_attn_add_script_test(<name> COMMAND <command>... [LABELS <label>...] [TIMEOUT <seconds>])
function(flash_attn_add_script_test name)
  cmake_parse_arguments(PARSE_ARGV 1 test "" "TIMEOUT" "COMMAND;LABELS")
  add_test(NAME ${name} COMMAND ${test_COMMAND} COMMAND_EXPAND_LISTS)
  flash_attn_test_properties(${name} "${test_TIMEOUT}" ${test_LABELS})
endfunction()

add_custom_target(fuzzers)

# flash_attn_add_fuzzer(<name> SOURCES <file>... [CORPUS <folder>] [SECONDS <n>])
# Builds a libFuzzer target and a bounded run of it, in builds with FLASH_ATTN_FUZZ only. New inputs stay in the build folder.
function(flash_attn_add_fuzzer name)
  cmake_parse_arguments(PARSE_ARGV 1 fuzz "" "CORPUS;SECONDS" "SOURCES;LIBRARIES")
  if(NOT FLASH_ATTN_FUZZ)
    return()
  endif()
  if(NOT fuzz_SECONDS)
    set(fuzz_SECONDS 20)
  endif()
  add_executable(${name} ${fuzz_SOURCES})
  flash_attn_compile_options(${name})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${name} PRIVATE ${fuzz_LIBRARIES} flash_attn_static)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/${name}.corpus)
  add_test(NAME ${name} COMMAND ${name} -max_total_time=${fuzz_SECONDS} -seed=1 -print_final_stats=1 -rss_limit_mb=4096
    ${CMAKE_CURRENT_BINARY_DIR}/${name}.corpus ${fuzz_CORPUS})
  flash_attn_test_properties(${name} "" fuzz)
  add_dependencies(fuzzers ${name})
endfunction()

function(flash_attn_test_properties name timeout)
  if(timeout STREQUAL "")
    set(timeout ${FLASH_ATTN_TEST_TIMEOUT})
  endif()
  # 77: the test could not run here (no such device or tool) and says why; shown as skipped, never as passed.
  set_tests_properties(${name} PROPERTIES TIMEOUT ${timeout} SKIP_RETURN_CODE 77 LABELS "${ARGN}")
endfunction()
