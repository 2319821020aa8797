// Emulated: blocks run one after the other, so what they have written is there. Vectors must lie as the hardware asks.
#pragma once

#include "emulated_block.h"

namespace flash_attn::cuda {

template <class T>
T load_device(const float* at) {
  if (reinterpret_cast<uintptr_t>(at) % sizeof(T) != 0) emulated::fail("misaligned read", reinterpret_cast<uintptr_t>(at));
  T x;
  std::memcpy(&x, at, sizeof(T));
  return x;
}
inline float2 load_device_float2(const float* at) { return load_device<float2>(at); }
inline float4 load_device_float4(const float* at) { return load_device<float4>(at); }

}  // namespace flash_attn::cuda
