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

// 16 bytes at a multiple of 16.
__device__ __forceinline__ void write_chunk(char* at, const unsigned (&x)[4]) {
  *reinterpret_cast<float4*>(at) =
      make_float4(__uint_as_float(x[0]), __uint_as_float(x[1]), __uint_as_float(x[2]), __uint_as_float(x[3]));
}

// Of a 4x4 matrix whose column n lane n of each quad holds, the row of that number.
__device__ __forceinline__ void transpose_quad(unsigned (&word)[4]) {
  const bool is_odd = threadIdx.x & 1, is_high = threadIdx.x & 2;
#pragma unroll
  for (int n = 0; n < 4; n += 2) {
    const unsigned other = __shfl_xor_sync(0xffffffffu, is_odd ? word[n] : word[n + 1], 1);
    if (is_odd) {
      word[n] = other;
    } else {
      word[n + 1] = other;
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const unsigned other = __shfl_xor_sync(0xffffffffu, is_high ? word[n] : word[n + 2], 2);
    if (is_high) {
      word[n] = other;
    } else {
      word[n + 2] = other;
    }
  }
}

}  // namespace flash_attn::cuda
