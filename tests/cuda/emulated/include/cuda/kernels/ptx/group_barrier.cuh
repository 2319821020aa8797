// Emulated: barriers of some warps of a block.
#pragma once

#include "emulated_block.h"

namespace flash_attn::cuda {

inline void sync_group(int barrier, int threads) { emulated::named_barrier(barrier, threads, true); }

inline bool any_of_group(int barrier, int threads, bool x) {
  static bool any[16];
  static int joined[16];
  if (joined[barrier] == 0) any[barrier] = false;
  any[barrier] = any[barrier] || x;
  joined[barrier] = (joined[barrier] + 1) % threads;
  emulated::named_barrier(barrier, threads, true);
  const bool result = any[barrier];
  emulated::named_barrier(barrier, threads, true);  // or the next call would start before all have read
  return result;
}

}  // namespace flash_attn::cuda
