// The running softmax of a warp's rows, in registers. Maxima are kept multiplied by the exponent's factor and rounded once, so that
// weights and rescaling agree to the last bit however large the scores; they start at the least finite number, which no row without
// a visible key leaves.
#pragma once

#include "cuda/kernels/ptx/special.cuh"

namespace flash_attn::cuda {

__device__ __forceinline__ float least_float() { return -__int_as_float(0x7f7fffff); }

// Rows 2 * strip + half of a lane: row lane / 4 + 8 * half of each strip of 16.
template <int kStrips>
struct RunningSoftmax {
  float top[2 * kStrips], sum[2 * kStrips];

  // A maximum moves only when some row of the warp would exceed 2^kLazy otherwise; sums and weights stay far from overflow.
  static constexpr float kLazy = 8.0f;

  __device__ __forceinline__ RunningSoftmax() {
#pragma unroll
    for (int n = 0; n < 2 * kStrips; ++n) {
      top[n] = least_float();
      sum[n] = 0;
    }
  }

  // Scores become weights 2^(score * factor - top); alpha is what older results are multiplied by. Returns whether any alpha is
  // not 1.
  template <int kTiles>
  __device__ __forceinline__ bool step(float (&s)[kStrips][kTiles][4], float factor, float (&alpha)[2 * kStrips]) {
    float next[2 * kStrips];
    float growth = 0;
#pragma unroll
    for (int n = 0; n < 2 * kStrips; ++n) {
      next[n] = fmaxf(top[n], row_max(s, n / 2, n % 2) * factor);
      growth = fmaxf(growth, next[n] - top[n]);
    }
    const bool moves = __any_sync(0xffffffffu, growth > kLazy);
    if (moves) {
#pragma unroll
      for (int n = 0; n < 2 * kStrips; ++n) {
        alpha[n] = exp2_fast(top[n] - next[n]);
        top[n] = next[n];
        sum[n] *= alpha[n];
      }
    }
#pragma unroll
    for (int n = 0; n < 2 * kStrips; ++n) weigh(s, n / 2, n % 2, factor);
    return moves;
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

  template <int kTiles>
  __device__ __forceinline__ void weigh(float (&s)[kStrips][kTiles][4], int strip, int half, float factor) {
    const float base = top[2 * strip + half];
    float even = 0, odd = 0;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      float& x = s[strip][t][2 * half];
      float& y = s[strip][t][2 * half + 1];
      x = exp2_fast(fmaf(x, factor, -base));
      y = exp2_fast(fmaf(y, factor, -base));
      even += x;
      odd += y;
    }
    sum[2 * strip + half] += even + odd;
  }
};

}  // namespace flash_attn::cuda
