// The gradients of what was added to the scores. A block of the role `bias` owns a tile of d_bias and walks over everything that
// was added from it: requests, heads, rows or keys along which it is broadcast. A block of the role `slopes` owns a tile of queries
// and leaves one number a row; bwd_heads sums them. Both add in a fixed order.
#pragma once

#include "cuda/kernels/sm80_bwd_step.cuh"

namespace flash_attn::cuda {

// ---- Role bias ----

template <Sm80BackwardConfig C>
struct BackwardBias : BackwardTiles<C> {
  using Base = BackwardTiles<C>;
  using Base::p;
  using Base::request;
  using Base::shared;
  using typename Base::Scores;

  // From one to the other: what an item sums over.
  struct Range {
    int begin, end;
  };
  static __device__ __forceinline__ Range range_of(bool is_summed, int own, int count) {
    return is_summed ? Range{0, count} : Range{own, min(own + 1, count)};
  }

  __device__ __forceinline__ BackwardBias(const BackwardParams& params, unsigned base) : Base(params, base) {}

  __device__ __forceinline__ bool sums_rows() const { return p.dbias_axes.row == 0; }
  __device__ __forceinline__ bool sums_keys() const { return p.dbias_axes.key == 0; }

  __device__ __forceinline__ void add_tile(int tile, int block, Scores& sums) {
    const int first = tile * C.tile_q, last = min(first + C.tile_q, static_cast<int>(request.s_q)) - 1;
    if (!reach_of<C.mask>(p, request.rule, first, last).touches(block * C.tile_k, C.tile_k)) return;
    __syncthreads();  // everyone has left the tiles before
    Base::load_queries(tile, 0);
    Base::load_keys(block, 0);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    Scores ds;
    Base::step(tile, 0, block, 0, Base::covers(tile, block), ds);
#pragma unroll
    for (int r = 0; r < Base::kStrips; ++r) {
#pragma unroll
      for (int t = 0; t < Base::kTiles; ++t) {
#pragma unroll
        for (int n = 0; n < 4; ++n) sums[r][t][n] += ds[r][t][n];
      }
    }
  }

  __device__ __forceinline__ void write(int n_request, int n_head, int n_row, int n_key, const Scores& sums) const {
    __syncthreads();
    float* const tile = reinterpret_cast<float*>(shared_floats());
#pragma unroll
    for (int n = 0; n < Base::kRows; ++n) {
#pragma unroll
      for (int t = 0; t < Base::kTiles; ++t) {
        float* const at = tile + Base::row_of(n) * C.tile_k + Base::warp_key() + 8 * t + lane_id() % 4 * 2;
        at[0] = sums[n / 2][t][n % 2 * 2];
        at[1] = sums[n / 2][t][n % 2 * 2 + 1];
      }
    }
    __syncthreads();
    const bool is_packed = p.cu_seqlens_q != nullptr && !sums_rows();
    const int extent = is_packed ? static_cast<int>(request.s_q) : p.dbias_rows;
    const int rows = sums_rows() ? 1 : min(C.tile_q, extent - n_row * C.tile_q);
    const int columns = sums_keys() ? 1 : min(C.tile_k, p.dbias_columns - n_key * C.tile_k);
    float* const base = p.dbias + (is_packed ? request.q_row * p.dbias_axes.row : n_request * p.dbias_axes.batch) +
                        n_head * p.dbias_axes.head + n_row * C.tile_q * p.dbias_axes.row + n_key * C.tile_k * p.dbias_axes.key;
    for (int n = static_cast<int>(threadIdx.x); n < rows * columns; n += C.threads()) {
      const int row = n / columns, column = n - row * columns;
      float sum = 0;
      for (int i = row; i < (sums_rows() ? C.tile_q : row + 1); ++i)
        for (int j = column; j < (sums_keys() ? C.tile_k : column + 1); ++j) sum += tile[i * C.tile_k + j];
      base[row * p.dbias_axes.row + column * p.dbias_axes.key] = sum;
    }
  }

  static __device__ __forceinline__ unsigned char* shared_floats() {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    return shared_memory;
  }

  __device__ __forceinline__ void run(int n_item) {
    const int n_key = n_item % p.bias_key_tiles, at_row = n_item / p.bias_key_tiles;
    const int n_row = at_row % p.bias_row_tiles, at_head = at_row / p.bias_row_tiles;
    const int n_head = at_head % p.bias_heads, n_request = at_head / p.bias_heads;
    Scores sums;
    clear(sums);
    const bool sums_requests = p.bias_requests == 1, sums_heads = p.bias_heads == 1;
    const Range requests = range_of(sums_requests, n_request, p.b), heads = range_of(sums_heads, n_head, p.slots);
#pragma unroll 1
    for (int r = requests.begin; r < requests.end; ++r) {
      Base::open_request(r);
      const Range rows = range_of(sums_rows(), n_row, (static_cast<int>(request.s_q) + C.tile_q - 1) / C.tile_q);
      const Range blocks = range_of(sums_keys(), n_key, (static_cast<int>(request.s_k) + C.tile_k - 1) / C.tile_k);
#pragma unroll 1
      for (int h = heads.begin; h < heads.end; ++h) {
        Base::open_head(h);
        Base::open_keys();
#pragma unroll 1
        for (int tile = rows.begin; tile < rows.end; ++tile) {
#pragma unroll 1
          for (int block = blocks.begin; block < blocks.end; ++block) add_tile(tile, block, sums);
        }
      }
    }
    write(n_request, n_head, n_row, n_key, sums);
  }
};

// ---- Role slopes ----

template <Sm80BackwardConfig C>
struct BackwardSlopes : BackwardTiles<C> {
  using Base = BackwardTiles<C>;
  using Base::p;
  using Base::request;
  using Base::shared;

  __device__ __forceinline__ BackwardSlopes(const BackwardParams& params, unsigned base) : Base(params, base) {}

  __device__ __forceinline__ void add_block(int tile, int block, int stage, float (&sums)[Base::kRows]) const {
    typename Base::Scores ds;
    Base::step(tile, 0, block, stage, Base::covers(tile, block), ds);
#pragma unroll
    for (int n = 0; n < Base::kRows; ++n) {
      const long long i = tile * C.tile_q + Base::row_of(n);
      const int diagonal = static_cast<int>(clamp_to(i + request.rule.delta, -0x40000000, 0x40000000));
#pragma unroll
      for (int t = 0; t < Base::kTiles; ++t) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = block * C.tile_k + Base::warp_key() + 8 * t + lane_id() % 4 * 2 + e;
          sums[n] -= ds[n / 2][t][n % 2 * 2 + e] * fabsf(static_cast<float>(diagonal - j));
        }
      }
    }
  }

  // The parts of all lanes and warps, row by row.
  __device__ __forceinline__ void write(int tile, float (&sums)[Base::kRows]) const {
    const unsigned parts = shared + C.sums_at();
    constexpr int kParts = C.warps / C.score_warps;
#pragma unroll
    for (int n = 0; n < Base::kRows; ++n) {
      sums[n] += __shfl_xor_sync(0xffffffffu, sums[n], 1);
      sums[n] += __shfl_xor_sync(0xffffffffu, sums[n], 2);
      if (lane_id() % 4 == 0) store_shared_float(parts + (warp_id() / C.score_warps * C.tile_q + Base::row_of(n)) * 4, sums[n]);
    }
    __syncthreads();
    for (int row = static_cast<int>(threadIdx.x); row < C.tile_q; row += C.threads()) {
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kParts; ++n) sum += load_shared_float(parts + (n * C.tile_q + row) * 4);
      if (tile * C.tile_q + row < request.s_q) p.row_slopes[Base::stat_row(tile) + row] = sum;
    }
  }

  __device__ __forceinline__ void run(int n_item) {
    const TileItem item = decode_tile(p, n_item, p.slots, true);
    const int first = item.tile * C.tile_q;
    Base::open_request(item.request);
    const int s_q = static_cast<int>(request.s_q);
    if (first >= s_q) return;
    Base::open_head(item.head);
    Base::open_keys();
    const Reach reach = reach_of<C.mask>(p, request.rule, first, min(first + C.tile_q, s_q) - 1);
    const BlockWalk blocks = walk_blocks<C.mask>(reach, C.tile_k, 0, static_cast<int>(request.s_k));
    float sums[Base::kRows] = {};
    Base::load_queries(item.tile, 0);
#pragma unroll 1
    for (int step = 0; step < blocks.total(); ++step) {
      __syncthreads();  // everyone has left the keys before
      Base::load_keys(blocks.block(step), 0);
      copy_async_commit();
      copy_async_wait<0>();
      __syncthreads();
      add_block(item.tile, blocks.block(step), 0, sums);
    }
    copy_async_commit();  // of the queries, where there were no keys
    copy_async_wait<0>();
    write(item.tile, sums);
  }
};

}  // namespace flash_attn::cuda
