// The role `renew` of the mma.sync backward: rows whose lse is so large that its last bit would show in their weights get their
// largest score and denominator anew, from scores made as the other roles make them. Blocks look at 32 tiles' flags at a time;
// where none is set, that is all.
#pragma once

#include "cuda/kernels/sm80_bwd_step.cuh"

namespace flash_attn::cuda {

template <Sm80BackwardConfig C>
struct BackwardRenew : BackwardTiles<C> {
  using Base = BackwardTiles<C>;
  using Base::p;
  using Base::request;
  using Base::shared;

  __device__ __forceinline__ BackwardRenew(const BackwardParams& params, unsigned base) : Base(params, base) {}

  // What is known of a row's scores. Nothing, while the sum is 0.
  struct Softmax {
    float top = 0, sum = 0;
    __device__ __forceinline__ void add(float score, float weight, float factor) {
      const float lead = (score - top) * factor;
      if (sum == 0) {
        top = score;
        sum = weight;
      } else if (lead > 0) {
        sum = sum * exp2_fast(-lead) + weight;
        top = score;
      } else {
        sum += weight * exp2_fast(lead);
      }
    }
    __device__ __forceinline__ void join(const Softmax& other, float factor) {
      if (other.sum > 0) add(other.top, other.sum, factor);
    }
  };
  using Rows = Softmax[Base::kRows];

  // From row_top's unit to the log2 domain.
  __device__ __forceinline__ float factor() const { return Base::kFinishes ? 1.0f : p.scale * kLog2E; }

  __device__ __forceinline__ void add_block(int tile, int block, Rows& rows) const {
    typename Base::Scores s;
    Base::multiply_scores(0, 0, s);
#pragma unroll
    for (int n = 0; n < Base::kRows; ++n) {
      const int i = tile * C.tile_q + Base::row_of(n);
      const ScoreRow<C> row = Base::score_row(i);
      const Limits limits = limits_of<C.mask>(request.rule, i);
#pragma unroll
      for (int t = 0; t < Base::kTiles; ++t) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = block * C.tile_k + Base::warp_key() + 8 * t + lane_id() % 4 * 2 + e;
          const float product = s[n / 2][t][n % 2 * 2 + e];
          const float x = Base::kFinishes ? Base::finish(row, product, j) : product;
          if (!Base::is_hidden(limits, j) && x != minus_infinity()) rows[n].add(x, 1.0f, factor());
        }
      }
    }
  }

  __device__ __forceinline__ void write(int tile, Rows& rows) const {
    const unsigned parts = shared + C.sums_at();
    constexpr int kParts = C.warps / C.score_warps;
#pragma unroll
    for (int n = 0; n < Base::kRows; ++n) {
#pragma unroll
      for (int step = 1; step <= 2; ++step) {
        Softmax other;
        other.top = __shfl_xor_sync(0xffffffffu, rows[n].top, step);
        other.sum = __shfl_xor_sync(0xffffffffu, rows[n].sum, step);
        rows[n].join(other, factor());
      }
      if (lane_id() % 4 == 0)
        store_shared_float2(parts + (warp_id() / C.score_warps * C.tile_q + Base::row_of(n)) * 8, rows[n].top, rows[n].sum);
    }
    __syncthreads();
    for (int row = static_cast<int>(threadIdx.x); row < C.tile_q; row += C.threads()) {
      Softmax joint;
      for (int n = 0; n < kParts; ++n) {
        const float2 part = load_shared_float2(parts + (n * C.tile_q + row) * 8);
        Softmax other;
        other.top = part.x;
        other.sum = part.y;
        joint.join(other, factor());
      }
      const unsigned long long at = Base::stat_row(tile) + row;
      const bool sees_keys = tile * C.tile_q + row < request.s_q && joint.sum > 0;
      if (p.sink) joint.sum += exp2_fast(fmaf(-joint.top, factor(), p.sink[Base::head] * kLog2E));
      p.row_top[at] = sees_keys ? joint.top : 0.0f;
      p.row_log[at] = sees_keys ? log2f(joint.sum) : -minus_infinity();
    }
  }

  __device__ __forceinline__ void renew(int tile) {
    const int first = tile * C.tile_q, s_q = static_cast<int>(request.s_q);
    const Reach reach = reach_of<C.mask>(p, request.rule, first, min(first + C.tile_q, s_q) - 1);
    const BlockWalk blocks = walk_blocks<C.mask>(reach, C.tile_k, 0, static_cast<int>(request.s_k));
    Rows rows;
    for (int step = 0; step < blocks.total(); ++step) {
      __syncthreads();  // everyone has left the tiles before
      if (step == 0) Base::load_queries(tile, 0);
      Base::load_keys(blocks.block(step), 0);
      copy_async_commit();
      copy_async_wait<0>();
      __syncthreads();
      add_block(tile, blocks.block(step), rows);
    }
    __syncthreads();  // the parts of the tile before have been read
    write(tile, rows);
  }

  // Tiles of 32 items of bwd_pre.
  __device__ __forceinline__ void run(int n_item) {
    const int items = p.b * p.slots * p.stat_tiles;
    const int mine = n_item * 32 + lane_id();
    bool is_large = false;
    if (mine < items) {
      const StatTile tile = find_stat_tile<C.has_lengths>(p, mine);
      is_large = tile.first < tile.request.s_q && p.large_tiles[tile.stat_at / C.stat_tile] != 0;
    }
#pragma unroll 1
    for (unsigned left = __ballot_sync(0xffffffffu, is_large); left != 0; left &= left - 1) {
      const StatTile tile = find_stat_tile<C.has_lengths>(p, n_item * 32 + __ffs(static_cast<int>(left)) - 1);
      Base::open_request(static_cast<int>(tile.request.index));
      Base::open_head(tile.head);
      Base::open_keys();
#pragma unroll 1
      for (int first = tile.first; first < min(tile.first + C.stat_tile, static_cast<int>(request.s_q)); first += C.tile_q)
        renew(first / C.tile_q);
    }
  }
};

}  // namespace flash_attn::cuda
