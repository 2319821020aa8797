// The running softmax of a warp's rows, in registers. The largest score of a row must weigh exactly 1, however large it is: while
// scores are moderate one fused multiply-add per weight does that, beyond it the difference is taken first.
#pragma once

#include "cuda/kernels/ptx/special.cuh"

namespace flash_attn::cuda {

// Below every score that means anything; rows without a visible key stay there, with a sum of 0.
constexpr float kLeastTop = -1e30f;
// Where a maximum's product with the exponent's factor is rounded by so little that 16-bit weights do not show it.
constexpr float kModerate = 1024.0f;

// Rows 2 * strip + half of a lane: row lane / 4 + 8 * half of each strip of 16. kExact: the difference is always taken first, for
// fp32 weights that show everything, and where the factor is 1.
template <int kStrips, bool kExact>
struct RunningSoftmax {
  float top[2 * kStrips], sum[2 * kStrips];
  bool is_large = kExact;  // of any row of the warp
  bool is_steady = false;  // weights may be taken with the maxima of earlier steps

  // A maximum moves only when some row of the warp would exceed 2^kLazy otherwise; sums and weights stay far from overflow.
  static constexpr float kLazy = 8.0f;

  __device__ __forceinline__ RunningSoftmax() {
#pragma unroll
    for (int n = 0; n < 2 * kStrips; ++n) {
      top[n] = kLeastTop;
      sum[n] = 0;
    }
  }

  // Scores become weights 2^((score - top) * factor); alpha is what older results are multiplied by. Returns whether any alpha is
  // not 1. join(next) makes the rows' maxima those of all warps that share them.
  template <int kTiles, class Join>
  __device__ __forceinline__ bool step(float (&s)[kStrips][kTiles][4], float factor, float (&alpha)[2 * kStrips], Join&& join) {
    float next[2 * kStrips];
    float growth = 0;
#pragma unroll
    for (int n = 0; n < 2 * kStrips; ++n) next[n] = fmaxf(top[n], row_max(s, n / 2, n % 2));
    join(next);
#pragma unroll
    for (int n = 0; n < 2 * kStrips; ++n) growth = fmaxf(growth, (next[n] - top[n]) * factor);
    const bool moves = __any_sync(0xffffffffu, growth > kLazy);
    if (moves) {
      float size = 0;
#pragma unroll
      for (int n = 0; n < 2 * kStrips; ++n) {
        alpha[n] = exp2_fast((top[n] - next[n]) * factor);
        top[n] = next[n];
        sum[n] *= alpha[n];
        if (next[n] != kLeastTop) size = fmaxf(size, fabsf(next[n]) * factor);
      }
      if constexpr (!kExact) {
        is_large = __any_sync(0xffffffffu, size > kModerate);
        is_steady = !is_large;
      }
    }
    if (is_large) {
#pragma unroll
      for (int n = 0; n < 2 * kStrips; ++n) weigh<true>(s, n / 2, n % 2, factor);
    } else {
#pragma unroll
      for (int n = 0; n < 2 * kStrips; ++n) weigh<false>(s, n / 2, n % 2, factor);
    }
    return moves;
  }

  // Two weights of lane row n, with the maximum of earlier steps, before anyone knows whether that is still good.
  __device__ __forceinline__ void weigh_ahead(float& x, float& y, int n, float factor, float (&part)[2 * kStrips]) const {
    const float base = -top[n] * factor;
    x = exp2_fast(fmaf(x, factor, base));
    y = exp2_fast(fmaf(y, factor, base));
    part[n] += x;
    part[n] += y;
  }
  // Whether one of `count` weights a lane is larger than a moving maximum would have made it.
  __device__ __forceinline__ bool is_too_much(const float (&part)[2 * kStrips], int count) const {
    float most = part[0];
#pragma unroll
    for (int n = 1; n < 2 * kStrips; ++n) most = fmaxf(most, part[n]);
    return !(most <= count * 256.0f);
  }
  __device__ __forceinline__ void accept(const float (&part)[2 * kStrips]) {
#pragma unroll
    for (int n = 0; n < 2 * kStrips; ++n) sum[n] += part[n];
  }

  // The whole row's sum, on all lanes of a quad.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int n = 0; n < 2 * kStrips; ++n) {
      sum[n] += __shfl_xor_sync(0xffffffffu, sum[n], 1);
      sum[n] += __shfl_xor_sync(0xffffffffu, sum[n], 2);
    }
  }

 private:
  template <int kTiles>
  static __device__ __forceinline__ float row_max(float (&s)[kStrips][kTiles][4], int strip, int half) {
    float x = s[strip][0][2 * half];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) x = fmaxf(x, fmaxf(s[strip][t][2 * half], s[strip][t][2 * half + 1]));
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
  }

  template <bool kDifferenceFirst, int kTiles>
  __device__ __forceinline__ void weigh(float (&s)[kStrips][kTiles][4], int strip, int half, float factor) {
    const float largest = top[2 * strip + half], base = largest * factor;
    float even = 0, odd = 0;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      float& x = s[strip][t][2 * half];
      float& y = s[strip][t][2 * half + 1];
      x = exp2_fast(kDifferenceFirst ? (x - largest) * factor : fmaf(x, factor, -base));
      y = exp2_fast(kDifferenceFirst ? (y - largest) * factor : fmaf(y, factor, -base));
      even += x;
      odd += y;
    }
    sum[2 * strip + half] += even + odd;
  }
};

}  // namespace flash_attn::cuda
