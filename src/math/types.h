// Small enums and aliases that the host code of every room and the device code share. Compiles as C++ and under NVRTC: no includes
// but the fixed-width integers.
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

#ifdef __CUDACC__
#define FA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FA_HOST_DEVICE static inline  // internal linkage: instruction-set units must not share a copy
#endif

namespace flash_attn {

enum class DType : int { none, f32, f16, bf16, f8e4m3, f8e5m2, i32, u64, boolean };

enum class MaskKind : int { full, causal, tree, per_request };

// "Unbounded" for window limits and interval ends; far from overflow when lengths are added.
constexpr long long kUnbounded = 1LL << 60;

// Element strides of a [batch, row, head, dim] tensor; a packed tensor has batch 0. For paged K/V, batch is the page stride.
struct Axes {
  long long batch = 0;
  long long row = 0;
  long long head = 0;
};

// Strides of a bias or mask, [batch, head, row, key]; 0 where it broadcasts.
struct BiasAxes {
  long long batch = 0;
  long long head = 0;
  long long row = 0;
  long long key = 0;
};

}  // namespace flash_attn
