// From products to scores, one element at a time: scale, softcap, ALiBi, bias, boolean and tree masks, and dropout of the weights.
// All scores are in the log2 domain. A config that has none of it compiles to nothing.
#pragma once

#include "cuda/kernels/params.h"
#include "cuda/kernels/ptx/convert.cuh"
#include "cuda/kernels/ptx/special.cuh"
#include "cuda/kernels/tile/work.cuh"
#include "math/philox.h"

namespace flash_attn::cuda {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }

// |error| of some 1e-7: tanh.approx would cost 16-bit inputs their accuracy at large caps.
__device__ __forceinline__ float tanh_exact(float x) {
  const float e = exp2_fast(2.0f * kLog2E * fminf(fabsf(x), 20.0f));
  const float y = 1.0f - __fdividef(2.0f, e + 1.0f);
  return x != x ? x : copysignf(y, x);
}

template <DType kType>
__device__ __forceinline__ float load_as_float(const char* base, long long index) {
  if constexpr (kType == DType::f32) {
    return reinterpret_cast<const float*>(base)[index];
  } else {
    return widen<kType>(reinterpret_cast<const unsigned short*>(base)[index]);
  }
}

// What the scores of one query row depend on.
template <auto C>
struct ScoreRow {
  int diagonal = 0;  // i + delta
  float slope = 0;   // log2 domain
  const char* bias = nullptr;
  const unsigned char* bool_mask = nullptr;
  const unsigned long long* tree = nullptr;

  __device__ __forceinline__ void open(const ForwardParams& p, const Request& request, RowPlace row) {
    if constexpr (C.has_alibi) {
      diagonal = static_cast<int>(clamp_to(row.i + request.rule.delta, -0x40000000, 0x40000000));
      slope = p.alibi[request.index * p.alibi_batch_stride + row.head] * kLog2E;
    }
    if constexpr (C.bias_dtype != DType::none)
      bias = p.bias + bias_offset(p.bias_axes, request, row.i, row.head) * (C.bias_dtype == DType::f32 ? 4 : 2);
    if constexpr (C.has_bool_mask) bool_mask = p.bool_mask + bias_offset(p.mask_axes, request, row.i, row.head);
    if constexpr (C.has_tree) {
      if (request.is_tree) tree = p.tree + request.index * p.tree_batch_stride + (request.q_row + row.i) * p.tree_row_stride;
    }
  }

  // Key j must lie inside the request.
  __device__ __forceinline__ float score(const ForwardParams& p, float product, int j, int tree_prefix) const {
    float x = product;
    if constexpr (C.has_softcap) {
      x = tanh_exact(x * p.inverse_cap) * (p.softcap * kLog2E);
    } else {
      x *= p.scale * kLog2E;
    }
    if constexpr (C.has_alibi) x -= slope * fabsf(static_cast<float>(diagonal - j));
    if constexpr (C.bias_dtype != DType::none) x += load_as_float<C.bias_dtype>(bias, j * p.bias_axes.key) * kLog2E;
    if constexpr (C.has_bool_mask) {
      if (!bool_mask[j * p.mask_axes.key]) x = minus_infinity();
    }
    if constexpr (C.has_tree) {
      if (tree && !tree_visible(tree, tree_prefix, j)) x = minus_infinity();
    }
    return x;
  }
};

// Zeroes the dropped ones of the eight weights that a lane holds of a 16x16 tile: [key / 8 % 2][row / 8 % 2 * 2 + key % 2].
__device__ __forceinline__ void drop_weights(float (&low)[4], float (&high)[4], PhiloxWords words, unsigned threshold) {
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const int row = n / 2, key = n % 2;
    if (((words.word[row * 2] >> (16 * key)) & 0xFFFFu) < threshold) low[n] = 0;
    if (((words.word[row * 2 + 1] >> (16 * key)) & 0xFFFFu) < threshold) high[n] = 0;
  }
}

__device__ __forceinline__ DropoutKey dropout_key_of(const ForwardParams& p) {
  const unsigned long long seed = p.dropout_seed_ptr ? *p.dropout_seed_ptr : p.dropout_seed;
  const unsigned long long offset = p.dropout_offset_ptr ? *p.dropout_offset_ptr : p.dropout_offset;
  return dropout_key(seed, offset);
}

// A finished row: what its accumulator is multiplied by, and its log-sum-exp. `top` is in the log2 domain; the sink joins here,
// once.
struct RowFinish {
  float factor, lse;
};
__device__ __forceinline__ RowFinish finish_row(const ForwardParams& p, int head, float top, float sum) {
  if (p.sink) {
    const float sink = p.sink[head] * kLog2E;
    const float joint = fmaxf(sum == 0 ? sink : fmaxf(top, sink), -__int_as_float(0x7f7fffff));
    const float shrink = sum == 0 ? 0.0f : exp2_fast(top - joint);
    const float total = sum * shrink + exp2_fast(sink - joint);
    if (total == 0) return {0.0f, minus_infinity()};
    return {__fdividef(p.keep_scale * shrink, total), (joint + log2_fast(total)) * kLn2};
  }
  if (sum == 0) return {0.0f, minus_infinity()};
  return {__fdividef(p.keep_scale, sum), (top + log2_fast(sum)) * kLn2};
}

}  // namespace flash_attn::cuda
