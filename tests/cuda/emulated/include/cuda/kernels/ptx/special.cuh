// Emulated: special functions, to the host library's accuracy, and packed conversions.
#pragma once

#include "cuda/kernels/ptx/convert.cuh"

namespace flash_attn::cuda {

inline float exp2_fast(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;  // denormals are flushed
}
inline float log2_fast(float x) { return std::log2(x); }
inline float max_nan(float x, float y) { return x != x || y != y ? NAN : std::max(x, y); }
inline float tanh_fast(float x) { return std::tanh(x); }

template <DType kType>
unsigned pack2(float low, float high) {
  if constexpr (kType == DType::bf16) return float_to_bf16(low) | static_cast<unsigned>(float_to_bf16(high)) << 16;
  return float_to_f16(low) | static_cast<unsigned>(float_to_f16(high)) << 16;
}

}  // namespace flash_attn::cuda
