// Emulated: four bytes in a word, single ones in shared memory, and on their way from global memory.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"

namespace flash_attn::cuda {

inline void store_shared_u8(unsigned address, unsigned x) { *shared_bytes_at(address, 1) = static_cast<unsigned char>(x); }

// Touches what it would fetch, so that a wrong address shows.
inline void prefetch_l2(const unsigned char* at) { static_cast<void>(*const_cast<const volatile unsigned char*>(at)); }

}  // namespace flash_attn::cuda
