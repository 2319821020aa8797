// The Hopper kernel's scores and softmax on wgmma accumulators. A thread holds two rows (r and r + 8) of a 64-row tile and, of each
// group of 8 columns, two neighbours: S[4 j + 2 r + e] is row r, column 8 j + 2 (lane % 4) + e.
#pragma once

#include "cuda/kernels/ptx/special.cuh"
#include "cuda/kernels/sm90_configs.h"
#include "cuda/kernels/tile/scores.cuh"
#include "cuda/kernels/tile/softmax.cuh"
#include "math/exp2.h"

namespace flash_attn::cuda {

// Running state of a thread's two rows; the maximum is in units of the stored scores.
struct RowState {
  float top[2] = {minus_infinity(), minus_infinity()};
  float sum[2] = {0.f, 0.f};
  float alpha[2] = {1.f, 1.f};
  float shift[2] = {0.f, 0.f};  // scores of the block are S + shift (has_alibi)
  bool is_large = false;        // some maximum of the warp is so large that differences are taken before they are scaled
};

// What brings scores to the log2 domain. They are kept in whatever unit costs least: as products, as tanh under a softcap, and
// finished where the scale is not positive.
template <Sm90ForwardConfig C>
__device__ __forceinline__ float score_unit(const ForwardParams& p) {
  if constexpr (C.has_softcap) return p.softcap * kLog2E;
  return C.is_scaled ? 1.f : p.scale * kLog2E;
}

// Adds -slope |diagonal - j|; `distance` is that of the thread's first key, `side` says that all keys lie left (1) or right (-1) of
// the diagonal, or on both sides (0). On one side it grows from key to key by steps that are constants of the code, one
// multiply-add each; what it is at the thread's first key is left to the row's maximum: scores are S + shift.
template <int kTileK>
__device__ __forceinline__ void add_distances(float (&S)[kTileK / 2], const float (&slope)[2], const float (&distance)[2], int side,
                                              float (&shift)[2]) {
  if (side != 0) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float step = side > 0 ? slope[r] : -slope[r];
      shift[r] = -step * distance[r];
#pragma unroll
      for (int j = 0; j < kTileK / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) S[4 * j + 2 * r + e] = fmaf(step, static_cast<float>(8 * j + e), S[4 * j + 2 * r + e]);
      }
    }
  } else {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      shift[r] = 0.f;
#pragma unroll
      for (int j = 0; j < kTileK / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) S[4 * j + 2 * r + e] -= slope[r] * fabsf(distance[r] - static_cast<float>(8 * j + e));
      }
    }
  }
}

// Products to scores: softcap, a scale that is not positive, bias and boolean mask. `j0` is the thread's first key; keys past
// `last` are read as it, they are hidden later. ALiBi comes between, but sums commute.
template <Sm90ForwardConfig C>
__device__ __forceinline__ void shape_scores(float (&S)[C.tile_k / 2], const ForwardParams& p, const ScoreRow<C> (&rows)[2], int j0,
                                             int last) {
  const float bias_unit = C.bias_dtype == DType::none ? 0.f : kLog2E / score_unit<C>(p);
#pragma unroll
  for (int j = 0; j < C.tile_k / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int read = min(j0 + 8 * j + e, last);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& s = S[4 * j + 2 * r + e];
        if constexpr (C.has_softcap)
          s = tanh_fast(s * p.inverse_cap);
        else if constexpr (C.is_scaled)
          s *= p.scale * kLog2E;
        if constexpr (C.bias_dtype != DType::none)
          s += load_as_float<C.bias_dtype>(rows[r].bias, read * p.bias_axes.key) * bias_unit;
        if constexpr (C.has_bool_mask && C.mask_warps() == 0) {
          if (!rows[r].bool_mask[read * p.mask_axes.key]) s = minus_infinity();
        }
      }
    }
  }
}

template <int kTileK>
__device__ __forceinline__ float find_top(const float (&S)[kTileK / 2], int r) {
  float a = fmaxf(S[2 * r], S[2 * r + 1]), b = fmaxf(S[4 + 2 * r], S[4 + 2 * r + 1]);
#pragma unroll
  for (int j = 2; j < kTileK / 8; j += 2) {
    a = fmaxf(a, fmaxf(S[4 * j + 2 * r], S[4 * j + 2 * r + 1]));
    if (j + 1 < kTileK / 8) b = fmaxf(b, fmaxf(S[4 * j + 4 + 2 * r], S[4 * j + 4 + 2 * r + 1]));
  }
  return fmaxf(a, b);
}

// The same as the bits of integers, three at a time: right unless all are negative, and then negative.
template <int kTileK>
__device__ __forceinline__ float find_positive_top(const float (&S)[kTileK / 2], int r) {
  int a = __float_as_int(S[2 * r]), b = __float_as_int(S[2 * r + 1]);
#pragma unroll
  for (int j = 1; j < kTileK / 8; ++j) {
    int& top = j & 1 ? a : b;
    top = max(max(top, __float_as_int(S[4 * j + 2 * r])), __float_as_int(S[4 * j + 2 * r + 1]));
  }
  return __int_as_float(max(a, b));
}

// Largest scores of the rows; with ALiBi those are S + shift, which is this thread's own.
template <Sm90ForwardConfig C>
__device__ __forceinline__ void find_tops(const float (&S)[C.tile_k / 2], const float (&shift)[2], float (&top)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) top[r] = C.integer_tops ? find_positive_top<C.tile_k>(S, r) : find_top<C.tile_k>(S, r);
  if (C.integer_tops && __any_sync(0xffffffffu, (__float_as_int(top[0]) | __float_as_int(top[1])) < 0)) {
#pragma unroll
    for (int r = 0; r < 2; ++r) top[r] = find_top<C.tile_k>(S, r);
  }
  if constexpr (C.has_alibi) top[0] += shift[0], top[1] += shift[1];
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
#pragma unroll
    for (int r = 0; r < 2; ++r) top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], step));
  }
}

// The block's scores enter the rows' maxima. Returns whether O must be multiplied by state.alpha. `c` brings scores to the log2
// domain.
template <Sm90ForwardConfig C, bool kMasked>
__device__ __forceinline__ bool raise_tops(const float (&S)[C.tile_k / 2], RowState& state, float c) {
  float top[2];
  find_tops<C>(S, state.shift, top);
  // Keep the old maximum unless it is exceeded by more than 2^lazy somewhere in the warp.
  const bool grows = fmaxf((top[0] - state.top[0]) * c, (top[1] - state.top[1]) * c) > static_cast<float>(C.lazy_log2);
  const bool rescales = __any_sync(0xffffffffu, grows);
  if (rescales) {
    float size = 0.f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float next = fmaxf(state.top[r], top[r]);
      const float base = kMasked && next == minus_infinity() ? 0.f : next;
      state.alpha[r] = exp2_fast((state.top[r] - base) * c);
      state.top[r] = next;
      state.sum[r] *= state.alpha[r];
      size = fmaxf(size, fabsf(base) * c);
    }
    state.is_large = __any_sync(0xffffffffu, size > kModerate);
  }
  return rescales;
}

// Scores become weights 2^((score - top) c); sums grow. Where maxima are large the difference is taken first, so that the largest
// score weighs exactly 1.
template <Sm90ForwardConfig C, bool kMasked>
struct Weigher {
  static constexpr int kTileK = C.tile_k;

  float c, base[2], even[2] = {0.f, 0.f}, odd[2] = {0.f, 0.f};

  __device__ __forceinline__ Weigher(float (&S)[kTileK / 2], const RowState& state, float factor) : c(factor) {
    float top[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = kMasked && state.top[r] == minus_infinity() ? 0.f : state.top[r] - state.shift[r];
      base[r] = top[r] * c;
    }
    if (state.is_large) {
#pragma unroll
      for (int x = 0; x < kTileK / 2; ++x) S[x] -= top[(x >> 1) & 1];
      base[0] = base[1] = 0.f;
    }
  }

  // Weight of the score in S[kIndex]; of every eight some by products, evenly spread.
  template <int kIndex>
  static __device__ __forceinline__ float weight(float x) {
    if constexpr (kIndex % 8 * C.polynomial_exp % 8 < C.polynomial_exp)
      return exp2_polynomial < C.dtype == DType::bf16 ? 3 : 4 > (max_nan(x, -127.f));
    else
      return exp2_fast(x);
  }

  // Of the scores in S[kAt] to S[kEnd - 1].
  template <int kAt, int kEnd>
  __device__ __forceinline__ void weigh(float (&S)[kTileK / 2]) {
    if constexpr (kAt < kEnd) {
      S[kAt] = weight<kAt>(fmaf(S[kAt], c, -base[0]));
      S[kAt + 1] = weight<kAt + 1>(fmaf(S[kAt + 1], c, -base[0]));
      S[kAt + 2] = weight<kAt + 2>(fmaf(S[kAt + 2], c, -base[1]));
      S[kAt + 3] = weight<kAt + 3>(fmaf(S[kAt + 3], c, -base[1]));
      even[0] += S[kAt], odd[0] += S[kAt + 1];
      even[1] += S[kAt + 2], odd[1] += S[kAt + 3];
      weigh<kAt + 4, kEnd>(S);
    }
  }

  __device__ __forceinline__ void add_to(RowState& state) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) state.sum[r] += even[r] + odd[r];
  }
};

}  // namespace flash_attn::cuda
