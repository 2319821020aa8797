# Archives of compiled GPU kernels, made with the program and installed where the library looks for them. FLASH_ATTN_ARCHIVES names
# the architectures; none by default, as compiling takes minutes and NVRTC. Each is an install component and a package of its own,
# kernels-<architecture>, so that a machine gets only those of its GPUs.
set(FLASH_ATTN_ARCHIVES "" CACHE STRING "Architectures whose kernels are compiled ahead and installed, such as sm_80;sm_90a (needs NVRTC)")
set(FLASH_ATTN_ARCHIVE_CASES default CACHE STRING "Problems that the archives serve, as for flash-attn compile --cases")

if(FLASH_ATTN_ARCHIVES AND (CMAKE_CROSSCOMPILING OR NOT TARGET flash-attn))
  message(FATAL_ERROR "FLASH_ATTN_ARCHIVES needs the program flash-attn, which this build does not have or cannot run")
endif()

set(FLASH_ATTN_ARCHIVE_FILES "")
foreach(arch IN LISTS FLASH_ATTN_ARCHIVES)
  set(archive ${PROJECT_BINARY_DIR}/kernels/${arch}.kernels)
  add_custom_command(OUTPUT ${archive} DEPENDS flash-attn VERBATIM COMMENT "Compiling GPU kernels for ${arch}"
    COMMAND ${CMAKE_COMMAND} -E env FLASH_ATTN_CACHE_DIR=${PROJECT_BINARY_DIR}/kernels/cache
      $<TARGET_FILE:flash-attn> compile --arch ${arch} --cases ${FLASH_ATTN_ARCHIVE_CASES} --out ${archive})
  add_custom_target(kernels_${arch} ALL DEPENDS ${archive})
  list(APPEND FLASH_ATTN_ARCHIVE_FILES ${archive})
  if(FLASH_ATTN_INSTALL)
    string(REPLACE "_" "" component kernels-${arch})  # package names know no underscore
    install(FILES ${archive} DESTINATION ${CMAKE_INSTALL_DATADIR}/flash-attn/kernels COMPONENT ${component})
  endif()
endforeach()
