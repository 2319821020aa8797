# What is installed and packaged: the headers, both libraries, the program, its demo data, and the files by which find_package(flash_attn)
# and pkg-config find them. Kernel archives (kernel_archives.cmake) are packages of their own.
include(CMakePackageConfigHelpers)

set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME library)  # everything but the kernel archives
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/flash_attn)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/flash_attn DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")
install(TARGETS flash_attn flash_attn_static EXPORT flash_attn_targets)
install(EXPORT flash_attn_targets FILE flash_attnTargets.cmake NAMESPACE flash_attn:: DESTINATION ${package_dir})

configure_package_config_file(cmake/flash_attnConfig.cmake.in ${PROJECT_BINARY_DIR}/flash_attnConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/flash_attnConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/flash_attnConfig.cmake ${PROJECT_BINARY_DIR}/flash_attnConfigVersion.cmake
  DESTINATION ${package_dir})

# pkg-config's paths are relative to the file itself, so that an unpacked archive works wherever it lies.
file(RELATIVE_PATH pc_to_prefix /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/flash_attn.pc.in flash_attn.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/flash_attn.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
if(TARGET flash-attn)
  install(TARGETS flash-attn)
  install(DIRECTORY tests/fixtures/ DESTINATION ${CMAKE_INSTALL_DATADIR}/flash-attn/fixtures)
endif()

set(CPACK_GENERATOR TGZ)
find_program(FLASH_ATTN_DPKG dpkg)
if(FLASH_ATTN_DPKG)
  list(APPEND CPACK_GENERATOR DEB)
endif()
set(CPACK_PACKAGE_NAME flash-attn-lib)
set(CPACK_PACKAGE_CONTACT "The flash-attn-lib authors")
set(CPACK_PACKAGE_VENDOR "The flash-attn-lib authors")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
# The symbols used reach up to glibc 2.34; tests/binary prints and checks the floor.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libc6 (>= 2.34)")
if(FLASH_ATTN_ARCHIVES)
  set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
  set(CPACK_DEB_COMPONENT_INSTALL ON)
  set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME flash-attn-lib)
endif()
include(CPack)
