// Small enums and aliases that the host code of every room and the device code share. Compiles as C++ and under NVRTC: no includes
// but the fixed-width integers.
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

#ifdef __CUDACC__
#define FA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FA_HOST_DEVICE inline
#endif

namespace flash_attn {

enum class DType : int { none, f32, f16, bf16, f8e4m3, f8e5m2, i32, u64, boolean };

enum class MaskKind : int { full, causal, tree, per_request };

// "Unbounded" for window limits and interval ends; far from overflow when lengths are added.
inline constexpr long long kUnbounded = 1LL << 60;

}  // namespace flash_attn
