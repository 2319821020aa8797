// Attention backward with mma.sync and cp.async, for sm_80 and everything newer. A block of the role `keys` owns a tile of keys and
// walks over the query tiles that see it, of all query heads that share the key head: dk and dv stay in registers, and the step's
// part of dq is added to fp32 sums where that is asked for. A block of the role `queries` owns a tile of queries and walks over the
// keys: dq without sums of others, the same to the bit each time. The roles bias and slopes are in sm80_bwd_scores.cuh, renew in
// sm80_bwd_renew.cuh.
#pragma once

#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/sm80_bwd_renew.cuh"
#include "cuda/kernels/sm80_bwd_scores.cuh"
#include "cuda/kernels/sm80_bwd_step.cuh"

namespace flash_attn::cuda {

// ---- Role keys ----

template <Sm80BackwardConfig C>
struct BackwardKeys : BackwardTiles<C> {
  using Base = BackwardTiles<C>;
  using Base::p;
  using Base::request;
  using Base::shared;
  using typename Base::Scores;
  using Dk = Accumulators<C.key_strips(), C.dk_tiles()>;
  using Dv = Accumulators<C.key_strips(), C.dv_tiles()>;

  __device__ __forceinline__ BackwardKeys(const BackwardParams& params, unsigned base) : Base(params, base) {}

  __device__ __forceinline__ int first_key() const { return Base::warp() % C.key_warps * 16 * C.key_strips(); }
  __device__ __forceinline__ int column_warp() const { return Base::warp() / C.key_warps; }

  // Query tiles that see keys [j0, j0 + tile_k): the limits grow with the row, so they are neighbours. Those from `covered` on see
  // all of them, unless there are limits on the left, which are looked at step by step.
  struct Walk {
    int begin, end, covered;
  };
  // The first tile of which something is true that stays true.
  template <class Is>
  static __device__ __forceinline__ int first_tile(int tiles, Is&& is) {
    int low = 0, high = tiles;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (is(middle)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
  static __device__ __forceinline__ int query_tiles(int s_q) { return (s_q + C.tile_q - 1) / C.tile_q; }
  __device__ __forceinline__ Walk find_walk(int j0) const {
    const int s_q = static_cast<int>(request.s_q), tiles = query_tiles(s_q);
    Walk walk{0, tiles, 0};
    if constexpr (C.mask == KeyMask::none) {
      if (j0 + C.tile_k > request.s_k) walk.covered = tiles;
      return walk;
    }
    walk.begin = first_tile(tiles, [&](int tile) {  // whose last row reaches j0
      return limits_of<C.mask>(request.rule, min((tile + 1) * C.tile_q, s_q) - 1).hi > j0;
    });
    walk.covered =
        first_tile(tiles, [&](int tile) { return limits_of<C.mask>(request.rule, tile * C.tile_q).hi >= j0 + C.tile_k; });
    if constexpr (C.mask == KeyMask::interval) {
      if (j0 < p.first_keys) return walk;
      walk.end = first_tile(tiles, [&](int tile) {  // whose first row has left the keys behind
        return limits_of<C.mask>(request.rule, tile * C.tile_q).lo >= j0 + C.tile_k;
      });
      walk.begin = min(walk.begin, walk.end);
    }
    return walk;
  }

  __device__ __forceinline__ void add_dq(int tile) const {
    constexpr int kStrips = C.query_strips(), kTiles = C.dq_tiles();
    const int first = Base::warp() % C.query_warps * 16 * kStrips, column = Base::warp() / C.query_warps * 8 * kTiles;
    Accumulators<kStrips, kTiles> dq;
    clear(dq);
    product_mixed<C.dtype, C.tile_k, C.score_row_bytes(), C.row_bytes(), C.unroll_dq>(
        dq, shared + C.ds_at() + first * C.score_row_bytes(), Base::k_tile(0), column, Base::lane());
    float* const sums = p.dq_sums + (Base::stat_row(tile) + first) * C.padded_d() + column * 16 + Base::lane() * 4;
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        add_global_float4(sums + r * 16 * C.padded_d() + t * 128, dq[r][t][0], dq[r][t][1], dq[r][t][2], dq[r][t][3]);
    }
  }

  // One query tile of one head. Its tiles lie in `stage`.
  __device__ __forceinline__ void attend(int tile, int stage, int block, bool is_covered, Dk& dk, Dv& dv) const {
    {
      Scores ds;
      Base::step(tile, stage, block, 0, is_covered, ds);
    }
    __syncthreads();  // all weights and dS are there
    product_columns<C.dtype, C.tile_q, C.score_row_bytes(), C.row_bytes_v(), C.unroll>(
        dv, shared + C.weights_at(), first_key(), Base::dout_tile(stage), column_warp() * 8 * C.dv_tiles(), Base::lane());
    if constexpr (C.sums_dq) add_dq(tile);
    product_columns<C.dtype, C.tile_q, C.score_row_bytes(), C.row_bytes(), C.unroll>(
        dk, shared + C.ds_at(), first_key(), Base::q_tile(stage), column_warp() * 8 * C.dk_tiles(), Base::lane());
  }

  __device__ __forceinline__ void walk_heads(const Walk& walk, int head_k, int block, Dk& dk, Dv& dv) {
    const int group = static_cast<int>(p.slot_group.value), first_head = head_k * group;
    const int total = group * (walk.end - walk.begin);
    int tile = C.walks_back ? walk.end - 1 : walk.begin, head = first_head;
    Base::load_queries(tile, 0);
    copy_async_commit();
#pragma unroll 1
    for (int step = 0; step < total; ++step) {
      const unsigned zero = Base::zero_of_step(step);
      Base::thread = threadIdx.x + zero;
      const int end = C.mask == KeyMask::interval ? walk.end : query_tiles(static_cast<int>(request.s_q + zero));
      copy_async_wait<0>();
      __syncthreads();  // this step's tiles have arrived, and everyone has left those of the step before
      const bool is_last = tile == (C.walks_back ? walk.begin : end - 1);
      const int next_tile = is_last ? (C.walks_back ? end - 1 : walk.begin) : C.walks_back ? tile - 1 : tile + 1;
      const int next_head = is_last ? head + 1 : head;
      if (C.stages > 1 && step + 1 < total) {
        Base::open_head(next_head);
        Base::load_queries(next_tile, (step + 1) % C.stages);
      }
      copy_async_commit();
      Base::open_head(head);
      const bool is_covered = C.mask == KeyMask::interval ? Base::covers(tile, block) : tile >= walk.covered;
      attend(tile, step % C.stages, block, is_covered, dk, dv);
      if (C.stages == 1 && step + 1 < total) {
        __syncthreads();  // everyone has read this step's tiles
        Base::open_head(next_head);
        Base::load_queries(next_tile, 0);
        copy_async_commit();
      }
      tile = next_tile;
      head = next_head;
    }
  }

  __device__ __forceinline__ void write(int head_k, int j0, const Dk& dk, const Dv& dv) const {
    const int count = static_cast<int>(request.s_k) - j0;
    const long long row = request.k_row + j0;
    char* const dk_base =
        p.dk + (request.k_batch * p.dk_axes.batch + row * p.dk_axes.row + head_k * p.dk_axes.head) * gradient_bytes(C.first_dtype);
    char* const dv_base =
        p.dv + (request.k_batch * p.dv_axes.batch + row * p.dv_axes.row + head_k * p.dv_axes.head) * gradient_bytes(C.second_dtype);
    Base::template put_rows<C.first_dtype, C.d, C.adds_first>(dk, dk_base, p.dk_axes.row, first_key(), count,
                                                              column_warp() * 8 * C.dk_tiles(), p.scale);
    Base::template put_rows<C.second_dtype, C.d_v, C.adds_second>(dv, dv_base, p.dv_axes.row, first_key(), count,
                                                                  column_warp() * 8 * C.dv_tiles(), p.keep_scale);
  }

  __device__ __forceinline__ TileItem open(int n_item) {
    const int group = static_cast<int>(p.slot_group.value);
    const TileItem item = decode_tile(p, n_item, p.slots / group, false);
    Base::open_request(item.request);
    Base::open_head(item.head * group);
    return item;
  }

  __device__ __forceinline__ void run(int n_item) {
    Dk dk;
    Dv dv;
    clear(dk);
    clear(dv);
    {
      const TileItem item = open(n_item);
      const int j0 = item.tile * C.tile_k;
      if (j0 >= request.s_k) return;
      const Walk walk = find_walk(j0);
      if (walk.begin < walk.end) {
        Base::open_keys();
        Base::load_keys(item.tile, 0);
        walk_heads(walk, item.head, item.tile, dk, dv);
      }
    }
    // Once more, so that none of it is kept in registers through the walk.
    const TileItem item = open(static_cast<int>(forget(C.loops_items ? static_cast<unsigned>(n_item) : blockIdx.x)));
    write(item.head, item.tile * C.tile_k, dk, dv);
  }
};

// ---- Role queries ----

template <Sm80BackwardConfig C>
struct BackwardQueries : BackwardTiles<C> {
  using Base = BackwardTiles<C>;
  using Base::p;
  using Base::request;
  using Base::shared;
  using Dq = Accumulators<C.query_strips(), C.dq_tiles()>;

  __device__ __forceinline__ BackwardQueries(const BackwardParams& params, unsigned base) : Base(params, base) {}

  __device__ __forceinline__ int first_query() const { return Base::warp() % C.query_warps * 16 * C.query_strips(); }
  __device__ __forceinline__ int first_column() const { return Base::warp() / C.query_warps * 8 * C.dq_tiles(); }

  __device__ __forceinline__ void walk_keys(const BlockWalk& blocks, int tile, Dq& dq) {
    const int total = blocks.total();
    Base::load_queries(tile, 0);
    Base::load_keys(blocks.block(0), 0);
    copy_async_commit();
#pragma unroll 1
    for (int step = 0; step < total; ++step) {
      Base::thread = threadIdx.x + Base::zero_of_step(step);
      copy_async_wait<0>();
      __syncthreads();  // this step's tiles have arrived, and everyone has left those of the step before
      if (C.stages > 1 && step + 1 < total) Base::load_keys(blocks.block(step + 1), (step + 1) % C.stages);
      copy_async_commit();
      const int stage = step % C.stages;
      {
        typename Base::Scores ds;
        Base::step(tile, 0, blocks.block(step), stage, Base::covers(tile, blocks.block(step)), ds);
      }
      __syncthreads();  // all of dS is there
      product_mixed<C.dtype, C.tile_k, C.score_row_bytes(), C.row_bytes(), C.unroll>(
          dq, shared + C.ds_at() + first_query() * C.score_row_bytes(), Base::k_tile(stage), first_column(), Base::lane());
      if (C.stages == 1 && step + 1 < total) {
        __syncthreads();  // everyone has read this step's tiles
        Base::load_keys(blocks.block(step + 1), 0);
        copy_async_commit();
      }
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
    Dq dq;
    clear(dq);
    const Reach reach = reach_of<C.mask>(p, request.rule, first, min(first + C.tile_q, s_q) - 1);
    const BlockWalk blocks = walk_blocks<C.mask>(reach, C.tile_k, 0, static_cast<int>(request.s_k));
    if (blocks.total() > 0) walk_keys(blocks, item.tile, dq);
    char* const base = p.dq + query_offset(p.dq_axes, request, first, item.head) * gradient_bytes(C.first_dtype);
    Base::template put_rows<C.first_dtype, C.d, C.adds_first>(dq, base, p.dq_axes.row, first_query(), s_q - first, first_column(),
                                                              p.scale);
  }
};

template <Sm80BackwardConfig C>
struct BackwardBlock;
template <Sm80BackwardConfig C>
requires(C.role == BackwardRole::keys) struct BackwardBlock<C> : BackwardKeys<C> {
  using BackwardKeys<C>::BackwardKeys;
};
template <Sm80BackwardConfig C>
requires(C.role == BackwardRole::queries) struct BackwardBlock<C> : BackwardQueries<C> {
  using BackwardQueries<C>::BackwardQueries;
};
template <Sm80BackwardConfig C>
requires(C.role == BackwardRole::bias) struct BackwardBlock<C> : BackwardBias<C> {
  using BackwardBias<C>::BackwardBias;
};
template <Sm80BackwardConfig C>
requires(C.role == BackwardRole::slopes) struct BackwardBlock<C> : BackwardSlopes<C> {
  using BackwardSlopes<C>::BackwardSlopes;
};
template <Sm80BackwardConfig C>
requires(C.role == BackwardRole::renew) struct BackwardBlock<C> : BackwardRenew<C> {
  using BackwardRenew<C>::BackwardRenew;
};

template <Sm80BackwardConfig C>
__device__ __forceinline__ void sm80_backward(const BackwardParams& p) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  BackwardBlock<C> block(p, shared_address(shared_memory));
  if constexpr (C.has_dropout) block.dropout = dropout_key_of(p);
  if constexpr (C.loops_items) {
#pragma unroll 1
    for (int item = static_cast<int>(blockIdx.x); item < p.items; item += static_cast<int>(gridDim.x)) {
      block.run(item);
      __syncthreads();
    }
  } else {
    block.run(static_cast<int>(blockIdx.x));
  }
}

}  // namespace flash_attn::cuda
