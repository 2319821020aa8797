// Single 16-bit elements to floats.
#pragma once

#include "math/types.h"

namespace flash_attn::cuda {

template <DType kType>
__device__ __forceinline__ float widen(unsigned short x) {
  float y;
  if constexpr (kType == DType::bf16) {
    y = __uint_as_float(static_cast<unsigned>(x) << 16);
  } else {
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  }
  return y;
}

}  // namespace flash_attn::cuda
