// The way from tiles to dS, which every block of the mma.sync backward takes: copies of Q, dO, K and V into shared memory, scores,
// weights from the rows' log-sum-exp, and dS = weights * (dO V^T - delta). What becomes of them is the matter of sm80_bwd.cuh and
// sm80_bwd_scores.cuh.
#pragma once

#include "cuda/kernels/sm80_bwd_configs.h"
#include "cuda/kernels/sm80_bwd_products.cuh"
#include "cuda/kernels/tile/gradients.cuh"
#include "cuda/kernels/tile/scores.cuh"
#include "cuda/kernels/tile/stat_rows.cuh"

namespace flash_attn::cuda {

// A tile of one head of a request; sections of heads lie together, so that they share what stays in cache.
struct TileItem {
  int request, head, tile;
};
__device__ __forceinline__ TileItem decode_tile(const BackwardParams& p, int n, int heads_per_request, bool is_last_first) {
  const int tiles = static_cast<int>(p.tiles_q.value);
  const int per_section = p.section * tiles;
  const int section = n / per_section, inside = n - section * per_section;
  const int heads = min(p.section, p.heads - section * p.section);
  const int row = inside / heads;
  const int head = section * p.section + inside - row * heads;
  const int request = head / heads_per_request;
  return {request, head - request * heads_per_request, is_last_first ? tiles - 1 - row : row};
}

template <Sm80BackwardConfig C>
struct BackwardTiles {
  static constexpr int kElement = C.element_bytes();
  static constexpr int kThreads = C.threads();
  static constexpr int kStrips = C.score_strips(), kTiles = C.score_tiles();
  static constexpr int kRows = 2 * kStrips;  // of a lane
  static constexpr bool kFinishes = C.has_softcap || C.has_alibi || C.bias_dtype != DType::none || C.has_bool_mask || C.has_tree;
  static constexpr bool kKeepsWeights = C.role == BackwardRole::keys;
  static constexpr bool kKeepsDs = C.role == BackwardRole::keys || C.role == BackwardRole::queries;
  using Scores = Accumulators<kStrips, kTiles>;

  const BackwardParams& p;
  unsigned shared;
  Request request;
  int head = 0;                // query head
  unsigned stat_tiles_at = 0;  // tiles of tile_q rows before row 0 of request and head in the statistics
  KeyRows keys;
  unsigned thread = threadIdx.x;
  DropoutKey dropout;

  __device__ __forceinline__ BackwardTiles(const BackwardParams& params, unsigned base) : p(params), shared(base) {}

  __device__ __forceinline__ void open_request(int r) { request = find_request<C.has_lengths>(p, r); }
  __device__ __forceinline__ void open_head(int query_head) {
    head = query_head;
    // The request's row 0 is found anew, so that it is not kept in registers.
    const long long first = first_stat_row(p.cu_seqlens_q != nullptr, request.q_row, forget(static_cast<unsigned>(request.index)),
                                           C.stat_tile, p.stat_tiles);
    stat_tiles_at = query_head * static_cast<unsigned>(p.stat_rows / C.tile_q) + static_cast<unsigned>(first / C.tile_q);
  }
  // Of the first row of a tile.
  __device__ __forceinline__ unsigned long long stat_row(int tile) const {
    return (stat_tiles_at + static_cast<unsigned>(tile)) * static_cast<unsigned long long>(C.tile_q);
  }
  __device__ __forceinline__ void open_keys() { keys = key_rows(p, request, divide(head, p.slot_group), kElement); }

  __device__ __forceinline__ int lane() const { return static_cast<int>(thread % 32); }
  __device__ __forceinline__ int warp() const { return static_cast<int>(thread / 32); }
  // 0, of which the assembler believes that it differs from step to step. Added to what places are made of, it keeps them from
  // being made before a walk, where they would fill registers or spill.
  static __device__ __forceinline__ unsigned zero_of_step(int step) { return forget(static_cast<unsigned>(step)) >> 31; }

  // Places of this warp in a tile of scores.
  __device__ __forceinline__ int warp_query() const { return warp() % C.score_warps * 16 * kStrips; }
  __device__ __forceinline__ int warp_key() const { return warp() / C.score_warps * 8 * kTiles; }
  __device__ __forceinline__ int row_of(int n) const { return warp_query() + n / 2 * 16 + n % 2 * 8 + lane() / 4; }

  // ---- Loads ----

  __device__ __forceinline__ unsigned q_tile(int stage) const { return shared + stage * C.tile_q * C.row_bytes(); }
  __device__ __forceinline__ unsigned dout_tile(int stage) const {
    return shared + C.dout_at() + stage * C.tile_q * C.row_bytes_v();
  }
  __device__ __forceinline__ unsigned k_tile(int stage) const { return shared + C.k_at() + stage * C.tile_k * C.row_bytes(); }
  __device__ __forceinline__ unsigned v_tile(int stage) const { return shared + C.v_at() + stage * C.tile_k * C.row_bytes_v(); }
  __device__ __forceinline__ unsigned stats(int stage) const { return shared + C.stats_at() + stage * C.tile_q * 8; }

  // Rows of a tile that lie one stride apart.
  template <int kTileRows, int kRowBytes, int kValid, int kAccess>
  __device__ __forceinline__ void load_rows(unsigned target, const char* base, long long row_bytes, int count) const {
    const long long stride = forget(row_bytes);
    using Lanes = CopyLanes<kRowBytes, kThreads>;
    const char* at = base + Lanes::row(thread) * stride;
    copy_rows<kTileRows, kRowBytes, kValid, kThreads, kAccess>(target, thread, [&](int row, const char*& address) {
      address = at;
      at += Lanes::kStep * stride;
      return row < count;
    });
  }

  __device__ __forceinline__ void load_queries(int tile, int stage) const {
    const int first = tile * C.tile_q, count = static_cast<int>(request.s_q) - first;
    Request request = this->request;  // found anew at each step, so that no address is kept in registers
    request.index = forget(request.index);
    request.q_row = forget(request.q_row);
    load_rows<C.tile_q, C.row_bytes(), C.d * kElement, C.access>(
        q_tile(stage), p.q + query_offset(p.q_axes, request, first, head) * kElement, p.q_axes.row * kElement, count);
    if constexpr (C.copies_dout) {
      constexpr int kStride = round_up(C.d_v, 8) * kElement;
      load_rows<C.tile_q, C.row_bytes_v(), C.d_v * kElement, 16>(dout_tile(stage), p.dout_copy + stat_row(tile) * kStride, kStride,
                                                                 count);
    } else {
      load_rows<C.tile_q, C.row_bytes_v(), C.d_v * kElement, C.access>(
          dout_tile(stage), p.dout + query_offset(p.dout_axes, request, first, head) * kElement, p.dout_axes.row * kElement, count);
    }
    const int n = static_cast<int>(thread);
    if (n < C.tile_q / 2) {
      const float* const from = (n < C.tile_q / 4 ? p.row_lse2 : p.row_delta - C.tile_q) + stat_row(tile);
      copy_async<16>(stats(stage) + n * 16, from + n * 4, 16);
    }
  }

  __device__ __forceinline__ void load_keys(int block, int stage) const {
    const int first = block * C.tile_k, count = static_cast<int>(request.s_k) - first;
    const long long k_stride = p.k_axes.row * kElement, v_stride = p.v_axes.row * kElement;
    load_rows<C.tile_k, C.row_bytes(), C.d * kElement, C.access>(k_tile(stage), keys.k + first * k_stride, k_stride, count);
    load_rows<C.tile_k, C.row_bytes_v(), C.d_v * kElement, C.access>(v_tile(stage), keys.v + first * v_stride, v_stride, count);
  }

  // ---- Weights ----

  // Bit 4 * (strip * kTiles + tile) + element of a lane is set where the weight is dropped.
  struct Dropped {
    unsigned bits[(kStrips * kTiles + 7) / 8];
    __device__ __forceinline__ bool has(int strip, int tile, int element) const {
      const int at = strip * kTiles + tile;
      return (bits[at / 8] >> (at % 8 * 4 + element)) & 1;
    }
  };
  __device__ __forceinline__ Dropped find_dropped(int i0, int j0) const {
    Dropped dropped{};
    if constexpr (C.has_dropout) {
#pragma unroll
      for (int r = 0; r < kStrips; ++r) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          // One call serves two neighbouring tiles; the compiler finds it again in the second.
          const int key = j0 + warp_key() + t * 8;
          const PhiloxWords words =
              dropout_words(dropout, static_cast<unsigned>(request.index), static_cast<unsigned>(head),
                            i0 + warp_query() + r * 16 + lane() / 4, (kTiles % 2 == 0 ? key - t % 2 * 8 : key) + lane() % 4 * 2);
          const bool is_high = kTiles % 2 == 0 ? t % 2 == 1 : key / 8 % 2 == 1;
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            const unsigned word = is_high ? words.word[n / 2 * 2 + 1] : words.word[n / 2 * 2];
            const int at = r * kTiles + t;
            if (((word >> (16 * (n % 2))) & 0xFFFFu) < p.dropout_threshold) dropped.bits[at / 8] |= 1u << (at % 8 * 4 + n);
          }
        }
      }
    }
    return dropped;
  }

  // What a row's weights are made with.
  struct RowScale {
    float lse2;     // or row_log, with
    float top = 0;  // row_top
  };

  // The weight of a product; `slope` is what dS is multiplied by on the way back through the softcap.
  template <bool kIsLarge>
  __device__ __forceinline__ float weight(const ScoreRow<C>& row, float product, int j, const RowScale& scale, float* slope) const {
    if constexpr (!kFinishes) {
      *slope = 1;
      return exp2_fast(fmaf(kIsLarge ? product - scale.top : product, p.scale * kLog2E, -scale.lse2));
    } else {
      const float x = finish(row, product, j);
      if constexpr (C.has_softcap) {
        const float t = tanh_exact(product * p.inverse_cap);
        *slope = 1.0f - t * t;
      }
      return exp2_fast((kIsLarge ? x - scale.top : x) - scale.lse2);
    }
  }
  __device__ __forceinline__ float finish(const ScoreRow<C>& row, float product, int j) const {
    return row.score(p, product, min(j, static_cast<int>(request.s_k) - 1), static_cast<int>(request.tree_prefix));
  }

  __device__ __forceinline__ ScoreRow<C> score_row(int i) const {
    ScoreRow<C> row;
    if constexpr (kFinishes) row.open(p, request, {min(i, static_cast<int>(request.s_q) - 1), head});
    return row;
  }
  static __device__ __forceinline__ bool is_hidden(const Limits& limits, int j) {
    if constexpr (C.mask == KeyMask::interval) return (j >= limits.hi || j < limits.lo) && j >= limits.first;
    return j >= limits.hi;
  }

  // Products to weights, the hidden ones to 0. Stores them, less the dropped ones, where dv is made of them; leaves what dS is a
  // multiple of.
  template <bool kIsCovered, bool kIsLarge>
  __device__ __forceinline__ void weigh(Scores& s, int tile, int j0, int stage, const Dropped& dropped) const {
    const int origin = j0 + warp_key() + lane() % 4 * 2;
    constexpr bool kBacksThroughCap = C.has_softcap && kKeepsDs;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const int i = tile * C.tile_q + row_of(n);
      RowScale scale;
      if constexpr (kIsLarge) {
        scale = {p.row_log[stat_row(tile) + row_of(n)], p.row_top[stat_row(tile) + row_of(n)]};
      } else {
        scale.lse2 = load_shared_float(stats(stage) + row_of(n) * 4);
      }
      const ScoreRow<C> row = score_row(i);
      Limits limits{};
      if constexpr (!kIsCovered) limits = limits_of<C.mask>(request.rule, i);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        float w[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = origin + 8 * t + e;
          float& x = s[n / 2][t][n % 2 * 2 + e];
          float slope = 1;
          w[e] = weight<kIsLarge>(row, x, j, scale, &slope);
          if (!kIsCovered && is_hidden(limits, j)) w[e] = 0;
          x = kBacksThroughCap ? w[e] * slope : w[e];
          if (C.has_dropout && dropped.has(n / 2, t, n % 2 * 2 + e)) w[e] = 0;
        }
        if constexpr (kKeepsWeights) store_pair(C.weights_at(), row_of(n), warp_key() + 8 * t, w[0], w[1]);
      }
    }
  }

  // Columns column + 2 * (lane % 4) and the next of a tile of weights or dS.
  __device__ __forceinline__ void store_pair(int tile_at, int row, int column, float x, float y) const {
    constexpr int kRow = C.score_row_bytes();
    const unsigned tile = shared + tile_at;
    const int q = lane() % 4;
    if constexpr (C.dtype == DType::f32) {
      store_shared_float2(tile + chunk_offset<kRow>(row, column / 4 + q / 2) + q % 2 * 8, x, y);
    } else {
      store_shared_u32(tile + chunk_offset<kRow>(row, column / 8) + q * 4, pack2<C.dtype>(x, y));
    }
  }

  // ---- A step ----

  __device__ __forceinline__ void multiply_scores(int query_stage, int key_stage, Scores& s) const {
    clear(s);
    product_rows<C.dtype, C.padded_d(), C.row_bytes(), C.unroll_scores>(s, q_tile(query_stage) + warp_query() * C.row_bytes(),
                                                                        k_tile(key_stage) + warp_key() * C.row_bytes(), lane());
  }

  // Does every row of this warp see all of its keys?
  __device__ __forceinline__ bool covers(int tile, int block) const {
    const int i0 = tile * C.tile_q + warp_query(), j0 = block * C.tile_k + warp_key();
    return reach_of<C.mask>(p, request.rule, i0, i0 + 16 * kStrips - 1).covers(j0, 8 * kTiles);
  }

  // dS of query tile `tile` in stage `query_stage` and key block `block` in stage `key_stage`, in registers; with it what the role
  // needs in shared memory. is_covered: every row of the warp sees all of its keys.
  __device__ __forceinline__ void step(int tile, int query_stage, int block, int key_stage, bool is_covered, Scores& ds) const {
    const int i0 = tile * C.tile_q, j0 = block * C.tile_k;
    const bool is_large = p.large_tiles[stat_row(tile) / C.stat_tile] != 0;
    Scores s;
    multiply_scores(query_stage, key_stage, s);
    const Dropped dropped = find_dropped(i0, j0);
    if (is_large) {
      weigh<false, true>(s, tile, j0, query_stage, dropped);
    } else if (is_covered) {
      weigh<true, false>(s, tile, j0, query_stage, dropped);
    } else {
      weigh<false, false>(s, tile, j0, query_stage, dropped);
    }
    clear(ds);
    product_rows<C.dtype, C.padded_d_v(), C.row_bytes_v(), C.unroll_scores>(
        ds, dout_tile(query_stage) + warp_query() * C.row_bytes_v(), v_tile(key_stage) + warp_key() * C.row_bytes_v(), lane());
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const float delta = load_shared_float(stats(query_stage) + C.tile_q * 4 + row_of(n) * 4);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int at = n % 2 * 2 + e;
          float x = ds[n / 2][t][at];
          if constexpr (C.has_dropout) x = dropped.has(n / 2, t, at) ? 0.0f : x * p.keep_scale;
          ds[n / 2][t][at] = s[n / 2][t][at] * (x - delta);
        }
        if constexpr (kKeepsDs)
          store_pair(C.ds_at(), row_of(n), warp_key() + 8 * t, ds[n / 2][t][n % 2 * 2], ds[n / 2][t][n % 2 * 2 + 1]);
      }
    }
  }

  // ---- Gradient rows ----

  // Writes `count` rows of accumulators whose first row is `base`; the warp's begin at `first` and its columns at `column`.
  template <DType kType, int kColumns, bool kAdds, int kRowStrips, int kColumnTiles>
  __device__ __forceinline__ void put_rows(const float (&acc)[kRowStrips][kColumnTiles][4], char* base, long long stride, int first,
                                           int count, int column, float factor) const {
#pragma unroll
    for (int n = 0; n < 2 * kRowStrips; ++n) {
      const int row = first + n / 2 * 16 + n % 2 * 8 + lane() / 4, at = n % 2 * 2;
      char* const line = base + row * stride * gradient_bytes(kType);
      const bool is_there = row < count;
      const float(&tile)[kColumnTiles][4] = acc[n / 2];
#pragma unroll
      for (int t = 0; t + 4 <= kColumnTiles; t += 4) {
        const float x[4] = {tile[t][at] * factor, tile[t + 1][at] * factor, tile[t + 2][at] * factor, tile[t + 3][at] * factor};
        const float y[4] = {tile[t][at + 1] * factor, tile[t + 1][at + 1] * factor, tile[t + 2][at + 1] * factor,
                            tile[t + 3][at + 1] * factor};
        put_tiles<kType, kColumns, kAdds, C.gradient_access>(line, column + 8 * t, x, y, is_there);
      }
      if (!is_there) continue;
#pragma unroll
      for (int t = kColumnTiles / 4 * 4; t < kColumnTiles; ++t)
        put_pair<kType, kColumns, (C.gradient_access >= 2 * gradient_bytes(kType)), kAdds>(
            line, column + 8 * t + lane() % 4 * 2, tile[t][at] * factor, tile[t][at + 1] * factor);
    }
  }
};

}  // namespace flash_attn::cuda
