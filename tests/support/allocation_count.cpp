// See allocation_count.h. glibc keeps its own entry points under other names, for programs that replace malloc.
#include "tests/support/allocation_count.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

namespace {

std::atomic<bool> is_counting = false;
std::atomic<int64_t> allocations = 0;

void note_allocation() {
  if (is_counting.load(std::memory_order_relaxed)) ++allocations;
}

}  // namespace

extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* memory, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void* memory);

void* malloc(size_t bytes) {
  note_allocation();
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  note_allocation();
  return __libc_calloc(count, bytes);
}
void* realloc(void* memory, size_t bytes) {
  note_allocation();
  return __libc_realloc(memory, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
  note_allocation();
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }
int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  *memory = memalign(alignment, bytes);
  return *memory == nullptr ? ENOMEM : 0;
}
void free(void* memory) { __libc_free(memory); }
void* mmap(void* address, size_t bytes, int protection, int flags, int file, off_t offset) {
  using Mmap = void* (*)(void*, size_t, int, int, int, off_t);
  static const auto next = reinterpret_cast<Mmap>(dlsym(RTLD_NEXT, "mmap"));
  note_allocation();
  return next(address, bytes, protection, flags, file, offset);
}
}

namespace flash_attn::test {

void start_counting() {
  allocations = 0;
  is_counting = true;
}

int64_t stop_counting() {
  is_counting = false;
  return allocations;
}

}  // namespace flash_attn::test
