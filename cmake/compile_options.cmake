# Compile and link options that every target of the project shares: warnings, sections, sanitizers. Attached to targets with
# flash_attn_compile_options(), never set globally, so that a project which adds this one as a subdirectory keeps its own.

set(FLASH_ATTN_WARNINGS -Wall -Wextra -Wpedantic -Wshadow)
set(FLASH_ATTN_CXX_WARNINGS -Wnon-virtual-dtor -Woverloaded-virtual)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees an overlap in std::string's operator+ that cannot be (its bug 105651).
  list(APPEND FLASH_ATTN_CXX_WARNINGS -Wno-restrict)
endif()
if(FLASH_ATTN_WERROR)
  list(APPEND FLASH_ATTN_WARNINGS -Werror)
endif()

set(FLASH_ATTN_SANITIZER_OPTIONS "")
if(FLASH_ATTN_FUZZ)
  list(APPEND FLASH_ATTN_SANITIZER_OPTIONS -fsanitize=fuzzer-no-link)
endif()
if(FLASH_ATTN_SANITIZE)
  list(APPEND FLASH_ATTN_SANITIZER_OPTIONS -fsanitize=${FLASH_ATTN_SANITIZE} -fno-omit-frame-pointer -g)
  if(FLASH_ATTN_SANITIZE MATCHES undefined)
    list(APPEND FLASH_ATTN_SANITIZER_OPTIONS -fno-sanitize-recover=undefined)
  endif()
endif()

function(flash_attn_compile_options target)
  target_compile_options(${target} PRIVATE ${FLASH_ATTN_WARNINGS}
    $<$<COMPILE_LANGUAGE:CXX>:${FLASH_ATTN_CXX_WARNINGS}>
    -ffunction-sections -fdata-sections ${FLASH_ATTN_SANITIZER_OPTIONS})
  target_link_options(${target} PRIVATE ${FLASH_ATTN_SANITIZER_OPTIONS})
endfunction()

# Programs and the shared library carry their C++ run-time library inside: what they need of a machine is libc, libm and the loader.
# A sanitizer brings its own run-time library, so those builds link as the compiler likes.
function(flash_attn_self_contained target)
  if(FLASH_ATTN_SANITIZER_OPTIONS)
    return()
  endif()
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:flash_attn_runtime>)
  target_link_options(${target} PRIVATE -static-libstdc++ -static-libgcc -Wl,--as-needed -Wl,--gc-sections)
endfunction()
