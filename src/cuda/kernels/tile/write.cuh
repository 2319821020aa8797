// Output rows in any output type, two neighbouring columns at a time as accumulators hold them.
#pragma once

#include "cuda/kernels/ptx/special.cuh"
#include "math/types.h"

namespace flash_attn::cuda {

template <DType kType>
__device__ __forceinline__ unsigned short narrow(float x) {
  return static_cast<unsigned short>(pack2<kType>(x, 0.0f));
}

// Columns `column` and the next of a row that has `kColumns`; pairs are aligned to two elements if kPairs.
template <DType kType, int kColumns, bool kPairs>
__device__ __forceinline__ void write_pair(char* row, int column, float x, float y) {
  if constexpr (kType == DType::f32) {
    float* at = reinterpret_cast<float*>(row) + column;
    if (kPairs && column + 1 < kColumns) {
      *reinterpret_cast<float2*>(at) = make_float2(x, y);
    } else {
      if (column < kColumns) at[0] = x;
      if (column + 1 < kColumns) at[1] = y;
    }
  } else {
    unsigned short* at = reinterpret_cast<unsigned short*>(row) + column;
    if (kPairs && column + 1 < kColumns) {
      *reinterpret_cast<unsigned*>(at) = pack2<kType>(x, y);
    } else {
      if (column < kColumns) at[0] = narrow<kType>(x);
      if (column + 1 < kColumns) at[1] = narrow<kType>(y);
    }
  }
}

}  // namespace flash_attn::cuda
