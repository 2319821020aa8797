// _dl_find_object for libgcc's unwinder, linked into what carries its run-time library inside. GCC 12's libgcc calls glibc 2.35's
// function of that name, which would make 2.35 the oldest glibc to run on; this one, hidden in our own binary, does the same
// through dl_iterate_phdr. Used only while an exception travels inside the library; knows nothing of the rest of it.
#include <dlfcn.h>
#include <link.h>

#ifdef DLFO_EH_SEGMENT_TYPE

#include <cstddef>
#include <cstdint>

namespace {

struct Search {
  uintptr_t address;
  dl_find_object* result;
};

int look_in(dl_phdr_info* object, size_t, void* context) {
  const Search* search = static_cast<const Search*>(context);
  const ElfW(Phdr)* unwind_table = nullptr;
  uintptr_t begin = UINTPTR_MAX, end = 0;
  bool found = false;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = object->dlpi_phdr[i];
    if (segment.p_type == DLFO_EH_SEGMENT_TYPE) unwind_table = &segment;
    if (segment.p_type != PT_LOAD) continue;
    const uintptr_t segment_begin = object->dlpi_addr + segment.p_vaddr;
    const uintptr_t segment_end = segment_begin + segment.p_memsz;
    found = found || (search->address >= segment_begin && search->address < segment_end);
    begin = segment_begin < begin ? segment_begin : begin;
    end = segment_end > end ? segment_end : end;
  }
  if (!found || unwind_table == nullptr) return 0;
  *search->result = {};
  search->result->dlfo_map_start = reinterpret_cast<void*>(begin);
  search->result->dlfo_map_end = reinterpret_cast<void*>(end);
  search->result->dlfo_eh_frame = reinterpret_cast<void*>(object->dlpi_addr + unwind_table->p_vaddr);
  return 1;
}

}  // namespace

// Returns 0 if an object with an unwind table holds the address, else -1, as glibc's does.
extern "C" __attribute__((visibility("hidden"))) int _dl_find_object(void* address, dl_find_object* result) noexcept {
  Search search = {reinterpret_cast<uintptr_t>(address), result};
  return dl_iterate_phdr(look_in, &search) == 1 ? 0 : -1;
}

#endif
