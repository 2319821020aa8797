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

// The two elements of a pair, as pack2 put them together.
template <DType kType>
__device__ __forceinline__ float2 unpack2(unsigned pair) {
  if constexpr (kType == DType::bf16) return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
  return make_float2(widen<kType>(static_cast<unsigned short>(pair)), widen<kType>(static_cast<unsigned short>(pair >> 16)));
}

}  // namespace flash_attn::cuda
