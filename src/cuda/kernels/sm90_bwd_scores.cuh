// A step's scores on the Hopper backward's accumulators, keys as rows: from S^T to P^T, from dP^T to dS^T, the mask's limits and
// ALiBi between them. Both forms of the kernel are built on it. Knows neither barriers nor products.
//
// A thread holds two keys (r and r + 8) of its warp's 16 and, of each group of 8 queries, two neighbours: X[4 j + 2 r + e] is key
// r, query 8 j + 2 (lane % 4) + e; A[2 j + r] are the two of one j, rounded.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/convert.cuh"
#include "cuda/kernels/ptx/reduce.cuh"
#include "cuda/kernels/ptx/special.cuh"
#include "cuda/kernels/sm90_bwd_schedule.cuh"

namespace flash_attn::cuda {

template <class Config>
struct BackwardScores {
  static constexpr Sm90BackwardConfig c = Config::value;
  static constexpr Sm90BackwardLayout at{c};
  static constexpr int kTileQ = c.tile_q;

  const Sm90BackwardArguments& a;
  unsigned smem;
  int group, lane, warp;
  float X[kTileQ / 2];     // S^T, then P^T; dP^T
  unsigned A[kTileQ / 4];  // P^T rounded, then dS^T

  // What the warp group's keys see. A thread's own limits lie in shared memory: few steps need them, and registers are dear.
  struct Limits {
    int clear_first, clear_last;  // queries that see all keys
  };

  __device__ __forceinline__ BackwardScores(const Sm90BackwardArguments& arguments, unsigned shared, int g)
      : a(arguments), smem(forget(shared)), group(g) {
    lane = threadIdx.x & 31;
    warp = (threadIdx.x >> 5) & 3;
  }

  // Where in the block's keys those of the warp group begin.
  static __device__ __forceinline__ int group_keys(int group) { return c.is_wide() ? 0 : group * c.kGroupKeys; }

  // Limits of a thread's keys (r and r + 8 of its warp's 16), in queries counted from its first column: lo, lo, hi, hi.
  __device__ __forceinline__ unsigned own_limits() const { return smem + at.limits + (threadIdx.x - 128) * 16; }

  // ALiBi: what a column's distance counts from, and the head's slope in the log2 domain.
  __device__ __forceinline__ unsigned own_alibi() const { return smem + at.alibi + (threadIdx.x - 128) * 8; }

  __device__ __forceinline__ void open_head(const QueryWalk<Config>& walk) {
    if constexpr (c.has_alibi) {
      const unsigned task = smem + at.task;
      const TaskHeads heads = get_heads(task);
      const int head = heads.first + walk.step / (heads.tiles.last - heads.tiles.first), batch = load_shared_int2(task + 32).x;
      store_shared_float(own_alibi() + 4, a.params.alibi[batch * a.params.alibi_batch_stride + head] * 1.4426950408889634f);
    }
  }

  __device__ __forceinline__ Limits open_keys(const BackwardItem& item) {
    const int first = item.n * c.tile_k() + group_keys(group), s_k = static_cast<int>(item.request.s_k);
    const int first_column = 2 * (lane & 3);
    const long long s_q = item.request.s_q;
    int lo[2], hi[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int key = first + warp * 16 + lane / 4 + 8 * r;
      lo[r] = -8, hi[r] = key < s_k ? 1 << 30 : -8;
      if constexpr (c.mask != KeyMask::none) {
        const QueryInterval queries = query_interval(item.request.rule, s_q, key);
        lo[r] = static_cast<int>(queries.lo) - first_column;
        hi[r] = static_cast<int>(queries.hi) - first_column;
      }
      if (c.mask == KeyMask::right && key >= s_k) lo[r] = 1 << 30;
    }
    store_shared4(own_limits(), lo[0], lo[1], hi[0], hi[1]);
    if constexpr (c.has_alibi) {
      const long long diagonal = clamp_to(item.request.rule.delta, -kFarAway, kFarAway);
      store_shared_float(own_alibi(),
                         static_cast<float>(static_cast<int>(diagonal) + first_column - (first + warp * 16 + lane / 4)));
    }
    Limits limits{first + 63 < s_k ? 0 : 1 << 30, static_cast<int>(s_q)};
    if constexpr (c.mask != KeyMask::none) {
      if (first + 63 < s_k) limits.clear_first = static_cast<int>(query_interval(item.request.rule, s_q, first + 63).lo);
      if constexpr (c.mask == KeyMask::interval)
        limits.clear_last = static_cast<int>(query_interval(item.request.rule, s_q, first).hi);
    }
    return limits;
  }

  // Zeros for the weights that the mask hides.
  __device__ __forceinline__ void hide(int row) {
    int lo[2], hi[2];
    load_shared4(own_limits(), lo[0], lo[1], hi[0], hi[1]);
#pragma unroll
    for (int j = 0; j < kTileQ / 8; ++j) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = 8 * j + e;
          bool is_hidden = false;
          if constexpr (c.mask != KeyMask::none) is_hidden = column < lo[r] - row;
          if constexpr (c.mask != KeyMask::right) is_hidden = is_hidden || column >= hi[r] - row;
          if (is_hidden) X[4 * j + 2 * r + e] = 0.f;
        }
      }
    }
  }

  // How much ALiBi takes from the score of key r (0, 1), column x: distances count from the tile's first query.
  __device__ __forceinline__ float bias(float2 alibi, int r, int x) const {
    return alibi.y * fabsf(alibi.x + static_cast<float>(x - 8 * r));
  }

  // P of the scores in X, rounded to A. `row` is the tile's first query.
  __device__ __forceinline__ void weigh(const Limits& limits, int row, unsigned lse) {
    float2 alibi = make_float2(0, 0);
    if constexpr (c.has_alibi) alibi = load_shared_float2(own_alibi()), alibi.x += static_cast<float>(row);
#pragma unroll
    for (int j = 0; j < kTileQ / 8; ++j) {
      const float2 l = load_shared_float2(lse + j * 32);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = X[4 * j + 2 * r + e];
          float top = e ? l.y : l.x;
          if constexpr (c.has_alibi) top += bias(alibi, r, 8 * j + e);
          if constexpr (c.has_softcap) x = tanh_fast(x * a.scale_over_cap);
          x = exp2_fast(fmaf(x, c.has_softcap ? a.cap_log2 : a.scale_log2, -top));
        }
      }
    }
    if (row < limits.clear_first || (c.mask == KeyMask::interval && row + kTileQ > limits.clear_last)) hide(row);
#pragma unroll
    for (int i = 0; i < kTileQ / 4; ++i) A[i] = pack2<c.dtype>(X[2 * i], X[2 * i + 1]);
  }

  // With softcap, dS has 1 - t^2 as a factor, t = tanh(scale S / cap): found again in P, so that no register has to keep it.
  __device__ __forceinline__ float slope_of_cap(float weight, float top) const {
    const float t = fmaxf(log2_fast(weight) + top, -a.cap_log2) * a.inverse_cap_log2;
    return fmaf(-t, t, 1.f);
  }

  // dS = P (dP - delta) with dP in X, rounded, in the place of P: of 16 queries.
  __device__ __forceinline__ void differentiate_part(int part, float2 alibi, unsigned lse, unsigned deltas) {
#pragma unroll
    for (int j = 2 * part; j < 2 * part + 2; ++j) {
      const float2 delta = load_shared_float2(deltas + j * 32);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 weight = unpack2<c.dtype>(A[2 * j + r]);
        float low = weight.x * (X[4 * j + 2 * r] - delta.x), high = weight.y * (X[4 * j + 2 * r + 1] - delta.y);
        if constexpr (c.has_softcap) {
          float2 top = load_shared_float2(lse + j * 32);
          if constexpr (c.has_alibi) top.x += bias(alibi, r, 8 * j), top.y += bias(alibi, r, 8 * j + 1);
          low *= slope_of_cap(weight.x, top.x);
          high *= slope_of_cap(weight.y, top.y);
        }
        A[2 * j + r] = pack2<c.dtype>(low, high);
      }
    }
  }
  // What it needs of ALiBi.
  __device__ __forceinline__ float2 alibi_of_slopes(int row) const {
    float2 alibi = make_float2(0, 0);
    if constexpr (c.has_alibi && c.has_softcap) alibi = load_shared_float2(own_alibi()), alibi.x += static_cast<float>(row);
    return alibi;
  }
  __device__ __forceinline__ void differentiate(int row, unsigned lse, unsigned deltas) {
    const float2 alibi = alibi_of_slopes(row);
#pragma unroll
    for (int part = 0; part < kTileQ / 16; ++part) differentiate_part(part, alibi, lse, deltas);
  }
};

}  // namespace flash_attn::cuda
