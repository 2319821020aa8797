// The Hopper kernel's softmax on wgmma accumulators. A thread holds two rows (r and r + 8) of a 64-row tile and, of each group of 8
// columns, two neighbours: S[4 j + 2 r + e] is row r, column 8 j + 2 (lane % 4) + e.
#pragma once

#include "ptx/special.cuh"
#include "sm90_configs.h"

namespace flash_attn::cuda {

__device__ __forceinline__ float minus_infinity() { return -__int_as_float(0x7f800000); }

// Running state of a thread's two rows; the maximum is in units of the stored scores.
struct RowState {
  float top[2] = {minus_infinity(), minus_infinity()};
  float sum[2] = {0.f, 0.f};
  float alpha[2] = {1.f, 1.f};
};

// What a thread's rows see of a block, in columns counted from the thread's first one.
struct RowLimits {
  int lo[2], hi[2];
};

template <int kTileK, bool kHasLeft>
__device__ __forceinline__ void hide_scores(float (&S)[kTileK / 2], const RowLimits& limits) {
#pragma unroll
  for (int j = 0; j < kTileK / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int column = 8 * j + e;
        bool hidden = column >= limits.hi[r];
        if constexpr (kHasLeft) hidden = hidden || column < limits.lo[r];
        if (hidden) S[4 * j + 2 * r + e] = minus_infinity();
      }
    }
  }
}

// Raw products to scores in the log2 domain. distance: |i + delta - j| counts from `diagonal` minus the thread's first column.
template <class Config, int kTileK>
__device__ __forceinline__ void shape_scores(float (&S)[kTileK / 2], float scale, float softcap, const float (&slope)[2],
                                             const int (&diagonal)[2]) {
  constexpr float log2_e = 1.4426950408889634f;
  const float inverse_cap = Config::value.has_softcap ? scale / softcap : 0.f;
  const float cap_log2 = softcap * log2_e;
#pragma unroll
  for (int j = 0; j < kTileK / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& s = S[4 * j + 2 * r + e];
        s = Config::value.has_softcap ? tanh_fast(s * inverse_cap) * cap_log2 : s * (scale * log2_e);
        if constexpr (Config::value.has_alibi) s -= slope[r] * fabsf(static_cast<float>(diagonal[r] - (8 * j + e)));
      }
    }
  }
}

// Scores become weights 2^(score * c - top * c); sums grow. Returns whether O must be multiplied by state.alpha.
template <class Config, bool kMasked, int kTileK>
__device__ __forceinline__ bool soften(float (&S)[kTileK / 2], RowState& state, float c) {
  constexpr int groups = kTileK / 8;
  float top[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float a = fmaxf(S[2 * r], S[2 * r + 1]), b = fmaxf(S[4 + 2 * r], S[4 + 2 * r + 1]);
#pragma unroll
    for (int j = 2; j < groups; j += 2) {
      a = fmaxf(a, fmaxf(S[4 * j + 2 * r], S[4 * j + 2 * r + 1]));
      if (j + 1 < groups) b = fmaxf(b, fmaxf(S[4 * j + 4 + 2 * r], S[4 * j + 4 + 2 * r + 1]));
    }
    a = fmaxf(a, b);
    a = fmaxf(a, __shfl_xor_sync(0xffffffffu, a, 1));
    top[r] = fmaxf(a, __shfl_xor_sync(0xffffffffu, a, 2));
  }
  // Keep the old maximum unless it is exceeded by more than 2^lazy somewhere in the warp.
  const bool grows = fmaxf((top[0] - state.top[0]) * c, (top[1] - state.top[1]) * c) > static_cast<float>(Config::value.lazy_log2);
  const bool rescales = __any_sync(0xffffffffu, grows);
  if (rescales) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float next = fmaxf(state.top[r], top[r]);
      const float base = kMasked && next == minus_infinity() ? 0.f : next;
      state.alpha[r] = exp2_fast((state.top[r] - base) * c);
      state.top[r] = next;
      state.sum[r] *= state.alpha[r];
    }
  }
  float base[2], even[2] = {0.f, 0.f}, odd[2] = {0.f, 0.f};
#pragma unroll
  for (int r = 0; r < 2; ++r) base[r] = kMasked && state.top[r] == minus_infinity() ? 0.f : state.top[r] * c;
#pragma unroll
  for (int j = 0; j < groups; ++j) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float x = exp2_fast(fmaf(S[4 * j + 2 * r], c, -base[r]));
      const float y = exp2_fast(fmaf(S[4 * j + 2 * r + 1], c, -base[r]));
      S[4 * j + 2 * r] = x;
      S[4 * j + 2 * r + 1] = y;
      even[r] += x;
      odd[r] += y;
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) state.sum[r] += even[r] + odd[r];
  return rescales;
}

}  // namespace flash_attn::cuda
