# One translation unit per instruction set (src/cpu/isa/), each with its own compiler flags. Only these files may use instructions beyond
# the architecture's baseline, so none of them may emit a symbol that another object could be linked to: tests/binary checks it.

# Scratch memory changes its type from task to task: no strict aliasing. Numbers: contraction to FMA is wanted; errno and floating-point
# traps are not. NaN and infinity keep their meaning (no -ffast-math).
set(FLASH_ATTN_KERNEL_FLAGS -O3 -ffp-contract=fast -fno-strict-aliasing -fno-math-errno -fno-trapping-math -fno-exceptions -fno-rtti
  -fno-asynchronous-unwind-tables)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 warns of its own header: _mm512_undefined_ps() is uninitialised by intent.
  list(APPEND FLASH_ATTN_KERNEL_FLAGS -Wno-maybe-uninitialized -Wno-uninitialized)
endif()
if(FLASH_ATTN_SANITIZER_OPTIONS)
  # Instrumented kernels take three times as long to compile at -O3 and run no better.
  list(REMOVE_ITEM FLASH_ATTN_KERNEL_FLAGS -O3 -fno-rtti -fno-asynchronous-unwind-tables)
  list(PREPEND FLASH_ATTN_KERNEL_FLAGS -O1)
endif()

set(FLASH_ATTN_ISAS_x86_64 baseline avx2 avx512 avx512_bf16 amx_bf16)
set(FLASH_ATTN_ISAS_aarch64 baseline neon)
set(FLASH_ATTN_ISAS ${FLASH_ATTN_ISAS_${FLASH_ATTN_ARCH}})

set(FLASH_ATTN_FLAGS_baseline "")
set(FLASH_ATTN_FLAGS_avx2 -march=x86-64-v3)
set(FLASH_ATTN_FLAGS_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
set(FLASH_ATTN_FLAGS_avx512_bf16 ${FLASH_ATTN_FLAGS_avx512} -mavx512bf16 -mavx512vnni)
set(FLASH_ATTN_FLAGS_amx_bf16 ${FLASH_ATTN_FLAGS_avx512_bf16} -mamx-tile -mamx-bf16)
set(FLASH_ATTN_FLAGS_neon -march=armv8-a)

# Appends the instruction sets' sources to the list `sources` and sets their flags. Call from src/CMakeLists.txt.
function(flash_attn_isa_sources sources)
  set(files ${${sources}})
  foreach(isa IN LISTS FLASH_ATTN_ISAS)
    set(file cpu/isa/${isa}.cpp)
    list(APPEND files ${file})
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${FLASH_ATTN_KERNEL_FLAGS};${FLASH_ATTN_FLAGS_${isa}}")
  endforeach()
  set(${sources} ${files} PARENT_SCOPE)
endfunction()
