// Emulated: blocks run one after the other, so a counter has been released long ago, or never will be.
#pragma once

#include "emulated_block.h"

namespace flash_attn::cuda {

inline unsigned load_acquire(const unsigned* counter) {
  emulated::yield_block();
  return *counter;
}
inline void fence_device() {}
inline void add_release(unsigned* counter, unsigned x) { *counter += x; }

}  // namespace flash_attn::cuda
