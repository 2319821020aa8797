// Emulated: blocks run one after the other, so a counter has been released long ago, or never will be.
#pragma once

#include "emulated_block.h"

namespace flash_attn::cuda {

inline unsigned load_acquire(const unsigned* counter) {
  static long n = 0; if (++n % 100000 == 0) std::fprintf(stderr, "wait block %u thread %u counter %p = %u\n", blockIdx.x, threadIdx.x, (void*)counter, *counter);
  emulated::yield_block();
  return *counter;
}
inline void fence_device() {}
inline void add_release(unsigned* counter, unsigned x) { *counter += x; std::fprintf(stderr, "add block %u thread %u %p -> %u\n", blockIdx.x, threadIdx.x, (void*)counter, *counter); }

}  // namespace flash_attn::cuda
