# Carries text files inside the library. flash_attn_embed(<source list> <root> <file>...) appends to the list a generated .cpp that
# defines kEmbeddedHeaders (src/cuda/jit/headers.h), each file under its name relative to <root>; it is made anew when one changes.
# Run as a script (cmake -P), this file writes that .cpp.

if(CMAKE_SCRIPT_MODE_FILE)
  cmake_minimum_required(VERSION 3.24)
  string(REPLACE "," ";" FILES "${FILES}")
  set(table "")
  set(count 0)
  foreach(name IN LISTS FILES)
    file(READ ${ROOT}/${name} text)
    # A compiler that reads headers from memory does not look beside the including one: such includes get their full names.
    get_filename_component(folder ${name} DIRECTORY)
    string(REGEX MATCHALL "#include \"[^\"\n]+\"" includes "${text}")
    foreach(include IN LISTS includes)
      string(REGEX REPLACE "#include \"(.+)\"" "\\1" target "${include}")
      cmake_path(SET beside NORMALIZE "${folder}/${target}")
      if(beside IN_LIST FILES)
        string(REPLACE "${include}" "#include \"${beside}\"" text "${text}")
      endif()
    endforeach()
    string(APPEND table "    {\"${name}\", R\"__embedded__(${text})__embedded__\"},\n")
    math(EXPR count "${count} + 1")
  endforeach()
  file(WRITE ${OUTPUT} "// The device headers as text, made by cmake/embed.cmake.
#include \"cuda/jit/headers.h\"
namespace flash_attn::cuda {
extern const EmbeddedHeader kEmbeddedHeaders[] = {
${table}};
extern const int kNumEmbeddedHeaders = ${count};
}  // namespace flash_attn::cuda
")
  return()
endif()

set(FLASH_ATTN_EMBED_SCRIPT ${CMAKE_CURRENT_LIST_FILE})

function(flash_attn_embed sources root)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/embedded_headers.cpp)
  set(paths ${ARGN})
  list(TRANSFORM paths PREPEND ${root}/)
  list(JOIN ARGN "," names)
  add_custom_command(OUTPUT ${output} DEPENDS ${paths} ${FLASH_ATTN_EMBED_SCRIPT} VERBATIM
    COMMAND ${CMAKE_COMMAND} -DROOT=${root} "-DFILES=${names}" -DOUTPUT=${output} -P ${FLASH_ATTN_EMBED_SCRIPT})
  # Each text is one literal, longer than what compilers must accept, not than what they do accept.
  set_source_files_properties(${output} PROPERTIES COMPILE_OPTIONS -Wno-overlength-strings)
  set(${sources} ${${sources}} ${output} PARENT_SCOPE)
endfunction()
