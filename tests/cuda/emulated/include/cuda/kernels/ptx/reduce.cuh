// Emulated: blocks run one after the other, so additions to global memory are plain ones.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"

namespace flash_attn::cuda {

inline long long forget(long long x) { return x; }

inline void add_global_float4(float* at, float x, float y, float z, float w) {
  if (reinterpret_cast<uintptr_t>(at) % 16 != 0) emulated::fail("misaligned addition", reinterpret_cast<uintptr_t>(at));
  at[0] += x, at[1] += y, at[2] += z, at[3] += w;
}

inline void store_shared_u32(unsigned address, unsigned x) { std::memcpy(shared_bytes_at(address, 4), &x, 4); }
inline void store_shared_float2(unsigned address, float x, float y) {
  const float2 pair{x, y};
  std::memcpy(shared_bytes_at(address, 8), &pair, 8);
}
inline void store_shared_float(unsigned address, float x) { std::memcpy(shared_bytes_at(address, 4), &x, 4); }
inline float load_shared_float(unsigned address) { return load_shared<float>(address); }

}  // namespace flash_attn::cuda
