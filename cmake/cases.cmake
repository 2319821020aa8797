# flash_attn_cases: the case table, the fp64 oracle and the test support. Tests, the bench and the program's self-check read the same
# cases through it. It knows the public headers only.
file(GLOB case_sources CONFIGURE_DEPENDS tests/*.cpp tests/oracle/*.cpp tests/support/*.cpp)
list(FILTER case_sources EXCLUDE REGEX "_test\\.cpp$")
if(NOT case_sources)
  add_library(flash_attn_cases INTERFACE)
  return()
endif()
add_library(flash_attn_cases STATIC ${case_sources})
flash_attn_compile_options(flash_attn_cases)
target_include_directories(flash_attn_cases PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
