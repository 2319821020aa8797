// A step's scores on the Hopper backward's accumulators, keys as rows: from S^T to P^T, from dP^T to dS^T, the mask's limits and
// ALiBi between them. Both forms of the kernel are built on it. Knows neither barriers nor products.
//
// A thread holds two keys (r and r + 8) of its warp's 16 and, of each group of 8 queries, two neighbours: X[4 j + 2 r + e] is key
// r, query 8 j + 2 (lane % 4) + e; A[2 j + r] are the two of one j, rounded.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/convert.cuh"
#include "cuda/kernels/ptx/pairs.cuh"
#include "cuda/kernels/ptx/reduce.cuh"
#include "cuda/kernels/ptx/special.cuh"
#include "cuda/kernels/sm90_bwd_schedule.cuh"
#include "math/exp2.h"
#include "math/philox.h"

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

  __device__ __forceinline__ BackwardScores(const Sm90BackwardArguments& arguments, unsigned shared, int g)
      : a(arguments), smem(forget(shared)), group(g) {
    lane = threadIdx.x & 31;
    warp = (threadIdx.x >> 5) & 3;
  }

  // Where in the block's keys those of the warp group begin.
  static __device__ __forceinline__ int group_keys(int group) { return c.is_wide() ? 0 : group * c.kGroupKeys; }

  // Limits of a thread's keys (r and r + 8 of its warp's 16), which few steps need, in queries counted from its first column: lo,
  // lo, hi, hi.
  __device__ __forceinline__ unsigned own_limits() const { return smem + at.limits + (threadIdx.x - 128) * 16; }

  // ALiBi: what a column's distance counts from, and the head's slope in the log2 domain.
  __device__ __forceinline__ unsigned own_alibi() const { return smem + at.alibi + (threadIdx.x - 128) * 8; }

  // Dropout: the query head.
  __device__ __forceinline__ unsigned own_head() const { return smem + at.heads + (threadIdx.x - 128) * 4; }

  __device__ __forceinline__ void open_head(const QueryWalk<Config>& walk) {
    if constexpr (c.has_alibi || c.has_dropout) {
      const unsigned task = smem + at.task;
      const TaskHeads heads = get_heads(task);
      const int head = heads.first + walk.step / (heads.tiles.last - heads.tiles.first), batch = load_shared_int2(task + 32).x;
      if constexpr (c.has_dropout) store_shared_u32(own_head(), static_cast<unsigned>(head));
      if constexpr (c.has_alibi)
        store_shared_float(own_alibi() + 4, a.params.alibi[batch * a.params.alibi_batch_stride + head] * 1.4426950408889634f);
    }
  }

  // The queries that see all keys of the warp group: first and last + 1.
  __device__ __forceinline__ unsigned own_clear() const { return smem + at.clear + group * 8; }

  __device__ __forceinline__ void open_keys(const BackwardItem& item) {
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
    int clear_first = first + 63 < s_k ? 0 : 1 << 30, clear_last = static_cast<int>(s_q);
    if constexpr (c.mask != KeyMask::none) {
      if (first + 63 < s_k) clear_first = static_cast<int>(query_interval(item.request.rule, s_q, first + 63).lo);
      if constexpr (c.mask == KeyMask::interval) clear_last = static_cast<int>(query_interval(item.request.rule, s_q, first).hi);
    }
    store_shared_int2(own_clear(), clear_first, clear_last);
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

  // Of every eight weights some are made by products, evenly spread. What a mask hides may come out as anything.
  template <int kPolynomials>
  static __device__ __forceinline__ float weight(int index, float x) {
    if (index % 8 * kPolynomials % 8 < kPolynomials) return exp2_polynomial<(c.dtype == DType::bf16 ? 3 : 4)>(max_nan(x, -127.f));
    return exp2_fast(x);
  }

  // P of the scores in X, rounded to A. `row` is the tile's first query.
  __device__ __forceinline__ void weigh(int row, unsigned lse) {
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
          x = weight<c.polynomial_exp>(4 * j + 2 * r + e, fmaf(x, c.has_softcap ? a.cap_log2 : a.scale_log2, -top));
        }
      }
    }
    const int2 clear = load_shared_int2(own_clear());
    if (row < clear.x || (c.mask == KeyMask::interval && row + kTileQ > clear.y)) hide(row);
#pragma unroll
    for (int i = 0; i < kTileQ / 4; ++i) A[i] = pack2<c.dtype>(X[2 * i], X[2 * i + 1]);
  }

  // With softcap, dS has 1 - t^2 as a factor, t = tanh(scale S / cap): found again in P, so that no register has to keep it.
  __device__ __forceinline__ float slope_of_cap(float weight, float top) const {
    const float t = fmaxf(log2_fast(weight) + top, -a.cap_log2) * a.inverse_cap_log2;
    return fmaf(-t, t, 1.f);
  }

  // ---- Weights in shared memory ----

  // All ones for each dropped weight of A[4 part] to A[4 part + 3]: as the forward draws them, where a call of the generator serves
  // queries i and i + 8 with keys j, j + 1, j + 8 and j + 9. Of two neighbouring keys' threads each makes one of the two calls
  // that both need, for a neighbour of the two queries.
  __device__ __forceinline__ void find_dropped(unsigned (&dropped)[4], int row) {
    const unsigned parity = lane >> 2 & 1, threshold = a.params.dropout_threshold;
    // Loaded anew for each call, as registers are dear.
    const int2 key = load_shared_int2(smem + at.dropout), batch = load_shared_int2(smem + at.task + 32);
    const int first_key = get_key_tile(smem + at.task) * c.tile_k() + group_keys(group) + warp * 16;
    const PhiloxWords words =
        dropout_words({static_cast<unsigned>(key.x), static_cast<unsigned>(key.y)}, static_cast<unsigned>(batch.x),
                      load_shared_u32(own_head()), row + 2 * (lane & 3) + static_cast<int>(parity), first_key + (lane >> 2 & 6));
    const unsigned own = parity ? 0x7632 : 0x5410, others = parity ? 0x5410 : 0x7632;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned x = words.word[2 * half], y = words.word[2 * half + 1];
      const unsigned mine = pick_bytes(x, y, own), theirs = __shfl_xor_sync(0xffffffffu, pick_bytes(x, y, others), 4);
      const unsigned pairs[2] = {pick_bytes(mine, theirs, parity ? 0x1054 : 0x5410),
                                 pick_bytes(mine, theirs, parity ? 0x3276 : 0x7632)};
#pragma unroll
      for (int r = 0; r < 2; ++r)
        dropped[2 * half + r] = threshold > 0 ? halves_up_to(pairs[r], threshold > 0 ? threshold - 1 : 0) : 0;
    }
  }

  // P of A to shared memory, four words at a time, lane beside lane. Dropped weights have a sign there and are 0 in A.
  __device__ __forceinline__ void put_weights(unsigned place, int row) {
#pragma unroll
    for (int part = 0; part < kTileQ / 16; ++part) {
      unsigned words[4] = {A[4 * part], A[4 * part + 1], A[4 * part + 2], A[4 * part + 3]};
      if constexpr (c.has_dropout) {
        unsigned dropped[4];
        find_dropped(dropped, row + 16 * part);
#pragma unroll
        for (int n = 0; n < 4; ++n) words[n] |= dropped[n] & 0x80008000u, A[4 * part + n] &= ~dropped[n];
      }
      store_shared4(place + part * 2048, static_cast<int>(words[0]), static_cast<int>(words[1]), static_cast<int>(words[2]),
                    static_cast<int>(words[3]));
    }
  }

  // dS with the weights that lie there, a few at a time: registers do not hold all of P beside dP.
  __device__ __forceinline__ void differentiate_with(unsigned place, int row, unsigned lse, unsigned deltas) {
    const float2 alibi = alibi_of_slopes(row);
#pragma unroll
    for (int part = 0; part < kTileQ / 16; ++part) {
      int x, y, z, w;
      load_shared4(place + part * 2048, x, y, z, w);
      A[4 * part] = x, A[4 * part + 1] = y, A[4 * part + 2] = z, A[4 * part + 3] = w;
      differentiate_part(part, alibi, lse, deltas, A);
    }
  }

  // ---- Derivatives ----

  // dP of a weight that dropout may have marked.
  __device__ __forceinline__ float weight_gradient(float weight, float product) const {
    if constexpr (!c.has_dropout) return product;
    return __float_as_int(weight) < 0 ? 0.f : product * a.params.keep_scale;
  }

  // dS = P (dP - delta) with P in A and dP in X, rounded, which may take the place of P: of 16 queries.
  __device__ __forceinline__ void differentiate_part(int part, float2 alibi, unsigned lse, unsigned deltas,
                                                     unsigned (&to)[kTileQ / 4]) {
#pragma unroll
    for (int j = 2 * part; j < 2 * part + 2; ++j) {
      const float2 delta = load_shared_float2(deltas + j * 32);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 weight = unpack2<c.dtype>(A[2 * j + r]);
        float low = fabsf(weight.x) * (weight_gradient(weight.x, X[4 * j + 2 * r]) - delta.x);
        float high = fabsf(weight.y) * (weight_gradient(weight.y, X[4 * j + 2 * r + 1]) - delta.y);
        if constexpr (c.has_softcap) {
          float2 top = load_shared_float2(lse + j * 32);
          if constexpr (c.has_alibi) top.x += bias(alibi, r, 8 * j), top.y += bias(alibi, r, 8 * j + 1);
          low *= slope_of_cap(fabsf(weight.x), top.x);
          high *= slope_of_cap(fabsf(weight.y), top.y);
        }
        to[2 * j + r] = pack2<c.dtype>(low, high);
      }
    }
  }
  // What it needs of ALiBi.
  __device__ __forceinline__ float2 alibi_of_slopes(int row) const {
    float2 alibi = make_float2(0, 0);
    if constexpr (c.has_alibi && c.has_softcap) alibi = load_shared_float2(own_alibi()), alibi.x += static_cast<float>(row);
    return alibi;
  }
  __device__ __forceinline__ void differentiate(int row, unsigned lse, unsigned deltas, unsigned (&to)[kTileQ / 4]) {
    const float2 alibi = alibi_of_slopes(row);
#pragma unroll
    for (int part = 0; part < kTileQ / 16; ++part) differentiate_part(part, alibi, lse, deltas, to);
  }
  __device__ __forceinline__ void differentiate(int row, unsigned lse, unsigned deltas) { differentiate(row, lse, deltas, A); }
};

}  // namespace flash_attn::cuda
