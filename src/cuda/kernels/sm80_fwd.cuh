// Attention forward with mma.sync and cp.async, for sm_80 and everything newer: one block per tile of query rows walks over the key
// blocks from the last to the first, with S, P and O in registers. Serves every forward feature; a config carries only the cost of
// its own. Knows its parameters and config, nothing of the host.
#pragma once

#include "cuda/kernels/configs.h"
#include "cuda/kernels/params.h"
#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/tile/products.cuh"
#include "cuda/kernels/tile/request.cuh"
#include "cuda/kernels/tile/rows.cuh"
#include "cuda/kernels/tile/scores.cuh"
#include "cuda/kernels/tile/softmax.cuh"
#include "cuda/kernels/tile/work.cuh"
#include "cuda/kernels/tile/write.cuh"

namespace flash_attn::cuda {

template <Sm80ForwardConfig C>
struct Sm80Forward {
  static constexpr int kThreads = C.threads();
  static constexpr int kStrips = C.strips();
  static constexpr int kRows = 2 * kStrips;  // of a lane
  static constexpr int kElement = C.element_bytes();
  using Product = Products<C>;

  const ForwardParams& p;
  unsigned shared;
  WorkItem item;
  Request request;
  int rows;      // stacked rows of the slot
  int warp_row;  // first row of this warp
  KeyRows keys;
  DropoutKey dropout;

  __device__ __forceinline__ Sm80Forward(const ForwardParams& params, unsigned base) : p(params), shared(base) {}

  __device__ __forceinline__ int row_of(int n) const { return warp_row + n / 2 * 16 + n % 2 * 8 + lane_id() / 4; }

  // What scores are multiplied by to be in the log2 domain.
  __device__ __forceinline__ float factor() const { return C.is_scaled ? 1.0f : p.scale * kLog2E; }

  // ---- Loads ----

  __device__ __forceinline__ void load_queries() {
    const int first = item.tile * C.tile_q;
    copy_rows<C.tile_q, C.row_bytes(), C.d * kElement, kThreads, C.access>(shared, threadIdx.x, [&](int row, const char*& address) {
      const int at = min(first + row, rows - 1);
      const RowPlace place = place_of(p, item.slot, at);
      address = p.q + query_offset(p.q_axes, request, place.i, place.head) * kElement;
      return first + row < rows;
    });
  }

  // The tile of key block `block`, the step-th of the walk.
  template <bool kIsValue>
  __device__ __forceinline__ void load_keys(int block, int step) {
    constexpr int kRowBytes = kIsValue ? C.row_bytes_v() : C.row_bytes();
    const Axes& axes = kIsValue ? p.v_axes : p.k_axes;
    const char* const base = kIsValue ? keys.v : keys.k;
    const int count = static_cast<int>(request.s_k) - block * C.tile_k;
    const unsigned target = shared + (kIsValue ? C.v_at() : C.k_at()) + step % C.kStages * C.tile_k * kRowBytes;
    const long long row_bytes = axes.row * kElement;
    const unsigned thread = forget(threadIdx.x);
    constexpr int kValid = (kIsValue ? C.d_v : C.d) * kElement;
    if constexpr (C.is_paged) {
      const unsigned slots = shared + C.slots_at() + step % C.kSlotTiles * C.tile_k * 8;
      copy_rows<C.tile_k, kRowBytes, kValid, kThreads, C.access>(target, thread, [&](int row, const char*& address) {
        const int2 slot = load_shared_int2(slots + row * 8);
        address = base + (slot.x * axes.batch + slot.y * axes.row) * kElement;
        return row < count;
      });
    } else {
      using Lanes = CopyLanes<kRowBytes, kThreads>;
      const char* at = base + (block * C.tile_k + Lanes::row(thread)) * row_bytes;
      copy_rows<C.tile_k, kRowBytes, kValid, kThreads, C.access>(target, thread, [&](int row, const char*& address) {
        address = at;
        at += Lanes::kStep * row_bytes;
        return row < count;
      });
    }
  }

  // Where the rows of a tile lie, looked up two steps ahead so that nobody waits for the block table.
  struct SlotAhead {
    int2 slot[(C.tile_k + kThreads - 1) / kThreads];
  };
  __device__ __forceinline__ void find_slots(SlotAhead& ahead, int block) {
#pragma unroll
    for (int n = 0; n * kThreads < C.tile_k; ++n) {
      const int row = n * kThreads + static_cast<int>(threadIdx.x);
      if (row < C.tile_k) ahead.slot[n] = find_slot(p, request, block * C.tile_k + row);
    }
  }
  __device__ __forceinline__ void keep_slots(const SlotAhead& ahead, int step) {
#pragma unroll
    for (int n = 0; n * kThreads < C.tile_k; ++n) {
      const int row = n * kThreads + static_cast<int>(threadIdx.x);
      if (row < C.tile_k)
        store_shared_int2(shared + C.slots_at() + (step % C.kSlotTiles * C.tile_k + row) * 8, ahead.slot[n].x, ahead.slot[n].y);
    }
  }

  // ---- Scores ----

  // Accumulators of wide values leave no registers for what scores need of a row: it is then found anew for every block.
  static constexpr bool kKeepsRows = C.padded_d_v() <= 128 || (!C.is_scaled && C.dtype != DType::f32);

  struct LaneRow {
    Limits limits;
    ScoreRow<C> score;
  };
  struct LaneRows {
    LaneRow row[kRows];
  };
  __device__ __forceinline__ LaneRow open_row(const Request& r, int row) const {
    const RowPlace place = place_of(p, item.slot, min(row, rows - 1));
    LaneRow lane;
    lane.limits = limits_of<C.mask>(r.rule, place.i);
    lane.score.open(p, r, place);
    return lane;
  }
  __device__ __forceinline__ void open_rows(LaneRows& lane) const {
    if constexpr (kKeepsRows) {
#pragma unroll
      for (int n = 0; n < kRows; ++n) lane.row[n] = open_row(request, row_of(n));
    }
  }
  __device__ __forceinline__ LaneRow lane_row(const LaneRows& lane, int n) const {
    if constexpr (kKeepsRows) return lane.row[n];
    const auto again = static_cast<int>(forget(static_cast<unsigned>(item.request)));
    return open_row(find_request<C.has_lengths>(p, again), static_cast<int>(forget(static_cast<unsigned>(row_of(n)))));
  }

  __device__ __forceinline__ void finish_scores(typename Product::Scores& s, const LaneRows& lane, int j0) const {
    const int last = static_cast<int>(request.s_k) - 1, prefix = static_cast<int>(request.tree_prefix);
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const ScoreRow<C> score = lane_row(lane, n).score;
#pragma unroll
      for (int t = 0; t < C.tile_k / 8; ++t) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[n / 2][t][n % 2 * 2 + e];
          const int j = j0 + 8 * t + lane_id() % 4 * 2 + e;
          x = score.score(p, x, min(j, last), prefix);
        }
      }
    }
  }

  __device__ __forceinline__ void hide_keys(typename Product::Scores& s, const LaneRows& lane, int j0) const {
    const int origin = j0 + lane_id() % 4 * 2;
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const Limits limits = lane_row(lane, n).limits;
      const int hi = limits.hi - origin, lo = limits.lo - origin, first = limits.first - origin;
#pragma unroll
      for (int t = 0; t < C.tile_k / 8; ++t) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int at = 8 * t + e;
          bool is_hidden = at >= hi;
          if constexpr (C.mask == KeyMask::interval) is_hidden = (is_hidden || at < lo) && at >= first;
          if (is_hidden) s[n / 2][t][n % 2 * 2 + e] = minus_infinity();
        }
      }
    }
  }

  __device__ __forceinline__ void drop(typename Product::Scores& weights, int j0) const {
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
#pragma unroll
      for (int t = 0; t < C.tile_k / 16; ++t) {
        // Rows are not packed with dropout: a lane's two rows of a strip are queries of one head.
        const PhiloxWords words = dropout_words(dropout, static_cast<unsigned>(item.request), static_cast<unsigned>(item.slot),
                                                warp_row + r * 16 + lane_id() / 4, j0 + t * 16 + lane_id() % 4 * 2);
        drop_weights(weights[r][2 * t], weights[r][2 * t + 1], words, p.dropout_threshold);
      }
    }
  }

  // ---- Results ----

  template <class Softmax>
  __device__ __forceinline__ void write(const typename Product::Output& o, const Softmax& softmax) const {
    const int lane = lane_id();
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const int row = row_of(n);
      if (row >= rows) continue;
      const RowPlace place = place_of(p, item.slot, row);
      const RowFinish finish = finish_row(p, place.head, softmax.top[n] * factor(), softmax.sum[n]);
      constexpr int kBytes = C.o_dtype == DType::f32 ? 4 : 2;
      char* const line = p.o + query_offset(p.o_axes, request, place.i, place.head) * kBytes;
#pragma unroll
      for (int t = 0; t < Product::kValueTiles; ++t) {
        // A row without a visible key is 0 whatever its values are.
        const float x = finish.factor == 0 ? 0.0f : o[n / 2][t][n % 2 * 2] * finish.factor;
        const float y = finish.factor == 0 ? 0.0f : o[n / 2][t][n % 2 * 2 + 1] * finish.factor;
        write_pair<C.o_dtype, C.d_v, C.o_pairs>(line, 8 * t + lane % 4 * 2, x, y);
      }
      if (p.lse && lane % 4 == 0) p.lse[query_offset(p.lse_axes, request, place.i, place.head)] = finish.lse;
    }
  }

  template <class Softmax>
  __device__ __forceinline__ void write_partial(const typename Product::Output& o, const Softmax& softmax, int n_item) const {
    float* const partial = p.partials + static_cast<long long>(n_item) * C.tile_q * (C.d_v + 2);
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      if (row_of(n) >= rows) continue;
      const int row = row_of(n) - item.tile * C.tile_q;
      char* const line = reinterpret_cast<char*>(partial + static_cast<long long>(row) * C.d_v);
#pragma unroll
      for (int t = 0; t < Product::kValueTiles; ++t)
        write_pair<DType::f32, C.d_v, C.d_v % 2 == 0>(line, 8 * t + lane_id() % 4 * 2, o[n / 2][t][n % 2 * 2],
                                                      o[n / 2][t][n % 2 * 2 + 1]);
      if (lane_id() % 4 == 0) {
        partial[static_cast<long long>(C.tile_q) * C.d_v + row] = softmax.top[n] * factor();
        partial[static_cast<long long>(C.tile_q) * (C.d_v + 1) + row] = softmax.sum[n];
      }
    }
  }

  // ---- The loop ----

  // Scores of one block to weights, and weights times values.
  template <class Softmax>
  __device__ __forceinline__ void attend(int block, int step, bool is_covered, const LaneRows& lane, Softmax& softmax,
                                         typename Product::Output& o) {
    const int j0 = block * C.tile_k, stage = step % C.kStages;
    typename Product::Scores s;
    Product::scores(shared + warp_id() * 16 * kStrips * C.row_bytes(), shared + C.k_at() + stage * C.tile_k * C.row_bytes(), s);
    if constexpr (C.is_scaled) finish_scores(s, lane, j0);
    if (!is_covered) hide_keys(s, lane, j0);
    float alpha[kRows];
    if (softmax.step(s, factor(), alpha)) {
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
#pragma unroll
        for (int t = 0; t < Product::kValueTiles; ++t) {
          o[n / 2][t][n % 2 * 2] *= alpha[n];
          o[n / 2][t][n % 2 * 2 + 1] *= alpha[n];
        }
      }
    }
    if constexpr (C.has_dropout) drop(s, j0);
    Product::values(s, shared + C.v_at() + stage * C.tile_k * C.row_bytes_v(), o);
  }

  __device__ __forceinline__ void load_block(int block, int step) {
    load_keys<false>(block, step);
    load_keys<true>(block, step);
  }

  template <class Softmax>
  __device__ __forceinline__ void walk(const BlockWalk& blocks, const LaneRows& lane, const Reach& reach, Softmax& softmax,
                                       typename Product::Output& o) {
    const int total = blocks.total();
    SlotAhead ahead;
    if constexpr (C.is_paged) {
      for (int step = 0; step < min(total, 2); ++step) {
        find_slots(ahead, blocks.block(step));
        keep_slots(ahead, step);
      }
      __syncthreads();
    }
    load_queries();
    load_block(blocks.block(0), 0);
    copy_async_commit();
#pragma unroll 1
    for (int step = 0; step < total; ++step) {
      const int block = blocks.block(step);
      copy_async_wait<0>();
      __syncthreads();  // this step's tiles have arrived, and everyone has left those of the step before
      if (step + 1 < total) load_block(blocks.block(step + 1), step + 1);
      copy_async_commit();
      if constexpr (C.is_paged) {
        if (step + 2 < total) find_slots(ahead, blocks.block(step + 2));
      }
      if (reach.touches(block * C.tile_k, C.tile_k))
        attend(block, step, reach.covers(block * C.tile_k, C.tile_k), lane, softmax, o);
      if constexpr (C.is_paged) {
        if (step + 2 < total) keep_slots(ahead, step + 2);
      }
    }
  }

  // False if the item has no rows.
  __device__ __forceinline__ bool open(int n_item) {
    item = decode_item(p, n_item);
    request = find_request<C.has_lengths>(p, item.request);
    rows = static_cast<int>(request.s_q) * static_cast<int>(p.pack.value);
    warp_row = item.tile * C.tile_q + warp_id() * 16 * kStrips;
    return item.tile * C.tile_q < rows;
  }

  // What this warp's rows see; nothing, if it has none.
  __device__ __forceinline__ Reach warp_reach() const {
    Reach reach = reach_of<C.mask>(p, request.rule, min(warp_row, rows - 1), min(warp_row + 16 * kStrips, rows) - 1);
    if (warp_row >= rows) reach.last_row.hi = reach.last_row.first = 0;
    return reach;
  }

  __device__ __forceinline__ void run(int n_item) {
    if (!open(n_item)) return;
    keys = key_rows(p, request, divide(item.slot, p.slot_group), kElement);
    const int first = item.tile * C.tile_q;
    const Reach tile_reach = reach_of<C.mask>(p, request.rule, first, min(first + C.tile_q, rows) - 1);
    KeyRange range{0, static_cast<int>(request.s_k)};
    if constexpr (C.has_splits) range = split_keys(p, range.end, C.tile_k, item.split);
    const BlockWalk blocks = walk_blocks<C.mask>(tile_reach, C.tile_k, range.begin, range.end);

    RunningSoftmax<kStrips, C.dtype == DType::f32 || C.is_scaled> softmax;
    typename Product::Output o;
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
#pragma unroll
      for (int t = 0; t < Product::kValueTiles; ++t) o[r][t][0] = o[r][t][1] = o[r][t][2] = o[r][t][3] = 0;
    }
    if (blocks.total() > 0) {
      LaneRows lane;
      open_rows(lane);
      walk(blocks, lane, warp_reach(), softmax, o);
    }
    softmax.finish();
    open(static_cast<int>(
        forget(static_cast<unsigned>(n_item))));  // once more, so that none of it is kept in registers through the walk
    if constexpr (C.has_splits) {
      write_partial(o, softmax, n_item);
    } else {
      write(o, softmax);
    }
  }
};

template <Sm80ForwardConfig C>
__device__ __forceinline__ void sm80_forward(const ForwardParams& p) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  Sm80Forward<C> forward(p, shared_address(shared_memory));
  if constexpr (C.has_dropout) forward.dropout = dropout_key_of(p);
#pragma unroll 1
  for (int item = static_cast<int>(blockIdx.x); item < p.items; item += static_cast<int>(gridDim.x)) {
    forward.run(item);
    __syncthreads();
  }
}

}  // namespace flash_attn::cuda
