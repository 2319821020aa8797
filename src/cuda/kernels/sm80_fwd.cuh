// Attention forward with mma.sync and cp.async, for sm_80 and everything newer: one block per tile of query rows walks over the key
// blocks from the last to the first, with S, P and O in registers. Serves every forward feature; a config carries only the cost of
// its own. Knows its parameters and config, nothing of the host.
#pragma once

#include "cuda/kernels/configs.h"
#include "cuda/kernels/params.h"
#include "cuda/kernels/ptx/group_barrier.cuh"
#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/ptx/reduce.cuh"
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
  static constexpr int kColumns = C.columns;  // of warps
  using Product = Products<C>;
  static constexpr bool kIs16 = C.dtype != DType::f32;

  const ForwardParams& p;
  unsigned shared;
  WorkItem item;
  Request request;
  int rows;      // stacked rows of the slot
  int warp_row;  // first row of this warp
  DropoutKey dropout;

  __device__ __forceinline__ Sm80Forward(const ForwardParams& params, unsigned base) : p(params), shared(base) {}

  __device__ __forceinline__ int row_of(int n) const { return warp_row + n / 2 * 16 + n % 2 * 8 + lane_id() / 4; }

  __device__ __forceinline__ static int column() { return kColumns > 1 ? warp_id() % kColumns : 0; }
  __device__ __forceinline__ static int row_group() { return warp_id() / kColumns; }
  // First key of this warp in a step.
  __device__ __forceinline__ static int first_key() { return column() * Product::kKeys; }
  __device__ __forceinline__ unsigned query_rows_at() const { return shared + row_group() * 16 * kStrips * C.row_bytes(); }

  // The warps that share this one's rows.
  __device__ __forceinline__ static void sync_columns() { sync_group(1 + row_group(), 32 * kColumns); }

  // What scores are multiplied by to be in the log2 domain.
  __device__ __forceinline__ float factor() const { return C.is_scaled ? 1.0f : p.scale * kLog2E; }

  // ---- Loads ----

  // Row by row: other work's registers are still in use here.
  __device__ __forceinline__ void load_queries() const {
    using Pieces = CopyPieces<C.tile_q, C.row_bytes(), C.d * kElement, kThreads, C.access>;
    const int first = item.tile * C.tile_q;
    Pieces pieces(shared, threadIdx.x);
#pragma unroll 1
    for (int n = 0; n < Pieces::kCount; n += Pieces::kColumns) {
#pragma unroll
      for (int m = 0; m < Pieces::kColumns; ++m) {
        pieces.copy(n + m, [&](int row, const char*& address) {
          const RowPlace place = place_of(p, item.slot, min(first + row, rows - 1));
          address = p.q + query_offset(p.q_axes, request, place.i, place.head) * kElement;
          return first + row < rows;
        });
      }
    }
  }

  // What a step needs of its item's keys: kept in shared memory, as registers are short.
  struct KeyFacts {
    KeyRows rows;
    int s_k;
    int past_right;  // of KeyMask::right: query i does not see the keys from i + this on
  };
  __device__ __forceinline__ KeyFacts key_facts() const {
    KeyFacts facts{key_rows(p, request, divide(item.slot, p.slot_group), kElement), static_cast<int>(request.s_k), 0};
    if constexpr (C.mask == KeyMask::right) facts.past_right = right_offset(request.rule);
    return facts;
  }
  __device__ __forceinline__ void keep_facts(const KeyFacts& facts) const {
    if (threadIdx.x != 0) return;
    store_shared_address(shared + C.facts_at(), facts.rows.k);
    store_shared_address(shared + C.facts_at() + 8, facts.rows.v);
    store_shared_int2(shared + C.facts_at() + 16, facts.s_k, facts.past_right);
  }
  __device__ __forceinline__ KeyFacts kept_facts() const {
    const int2 numbers = load_shared_int2(shared + C.facts_at() + 16);
    return {{load_shared_address(shared + C.facts_at()), load_shared_address(shared + C.facts_at() + 8)}, numbers.x, numbers.y};
  }

  // The tile of key block `block`, the step-th of the walk; of a block past the walk, nothing.
  template <bool kIsValue>
  struct KeyCopy {
    static constexpr int kRowBytes = kIsValue ? C.row_bytes_v() : C.row_bytes();
    static constexpr int kValid = (kIsValue ? C.d_v : C.d) * kElement;
    using Pieces = CopyPieces<C.tile_k, kRowBytes, kValid, kThreads, C.access>;

    const Axes& axes;
    Pieces pieces;
    const char* at;
    unsigned slots;
    int count;

    __device__ __forceinline__ KeyCopy(const Sm80Forward& f, const KeyFacts& facts, int block, int step, bool is_there)
        : axes(kIsValue ? f.p.v_axes : f.p.k_axes),
          pieces(f.shared + (kIsValue ? C.v_at() : C.k_at()) + step % C.kStages * C.tile_k * kRowBytes, forget(threadIdx.x)),
          at(kIsValue ? facts.rows.v : facts.rows.k),
          slots(f.shared + C.slots_at() + step % C.kSlotTiles * C.tile_k * 8),
          count(is_there ? facts.s_k - block * C.tile_k : 0) {
      if constexpr (!C.is_paged) at += (block * C.tile_k + pieces.first) * (axes.row * kElement);
    }

    __device__ __forceinline__ void copy() {
#pragma unroll
      for (int n = 0; n < Pieces::kCount; ++n) {
        pieces.copy(n, [&](int row, const char*& address) {
          if constexpr (C.is_paged) {
            const int2 slot = load_shared_int2(slots + row * 8);
            address = at + (slot.x * axes.batch + slot.y * axes.row) * kElement;
          } else {
            address = at;
            at += CopyLanes<kRowBytes, kThreads>::kStep * (axes.row * kElement);
          }
          return row < count;
        });
      }
    }
  };

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
    const int count = static_cast<int>(r.s_q) * static_cast<int>(p.pack.value);
    const RowPlace place = place_of(p, item.slot, min(row, count - 1));
    LaneRow lane;
    if constexpr (C.mask == KeyMask::interval) lane.limits = limits_of<C.mask>(r.rule, place.i);
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
      for (int t = 0; t < Product::kKeyTiles; ++t) {
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
    const KeyFacts facts = kept_facts();
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      int hi = facts.s_k - origin, lo = 0, first = 0;
      if constexpr (C.mask == KeyMask::right)
        hi = static_cast<int>(
                 min(static_cast<long long>(divide(row_of(n), p.pack)) + facts.past_right, static_cast<long long>(facts.s_k))) -
             origin;
      if constexpr (C.mask == KeyMask::interval) {
        const Limits limits = lane_row(lane, n).limits;
        hi = limits.hi - origin, lo = limits.lo - origin, first = limits.first - origin;
      }
#pragma unroll
      for (int t = 0; t < Product::kKeyTiles; ++t) {
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

  // Column of the value tile `t`.
  __device__ __forceinline__ static int value_column(int t) { return t / 2 * 16 * kColumns + column() * 16 + t % 2 * 8; }

  // Rows of o as whole chunks, each lane of a quad one of every four neighbouring value tiles.
  static constexpr bool kWritesChunks = C.o_chunks && C.o_dtype != DType::f32 && Product::kValueTiles % 4 == 0;

  template <class Softmax>
  __device__ __forceinline__ void write(const typename Product::Output& o, const Softmax& softmax) const {
    const int lane = lane_id();
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const int row = row_of(n);
      const RowPlace place = place_of(p, item.slot, min(row, rows - 1));
      const RowFinish finish = finish_row(p, place.head, softmax.top[n] * factor(), softmax.sum[n]);
      // A row without a visible key is 0 whatever its values are.
      const auto finished = [&](int t, int e) { return finish.factor == 0 ? 0.0f : o[n / 2][t][n % 2 * 2 + e] * finish.factor; };
      constexpr int kBytes = C.o_dtype == DType::f32 ? 4 : 2;
      char* const line = p.o + query_offset(p.o_axes, request, place.i, place.head) * kBytes;
      if constexpr (kWritesChunks) {
#pragma unroll
        for (int t = 0; t < Product::kValueTiles; t += 4) {
          unsigned chunk[4];
#pragma unroll
          for (int m = 0; m < 4; ++m) chunk[m] = pack2<C.o_dtype>(finished(t + m, 0), finished(t + m, 1));
          transpose_quad(chunk);
          const int at = value_column(t + lane % 4);
          if (row < rows && at < C.d_v) write_chunk(line + at * 2, chunk);
        }
      } else if (row < rows) {
#pragma unroll
        for (int t = 0; t < Product::kValueTiles; ++t)
          write_pair<C.o_dtype, C.d_v, C.o_pairs>(line, value_column(t) + lane % 4 * 2, finished(t, 0), finished(t, 1));
      }
      if (p.lse && row < rows && lane % 4 == 0 && column() == 0)
        p.lse[query_offset(p.lse_axes, request, place.i, place.head)] = finish.lse;
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

  static constexpr bool kAhead = kIs16 && !C.is_scaled && !C.has_dropout;
  static constexpr int kLag = C.lags_values ? 1 : 0;
  static_assert(kAhead || (kLag == 0 && kColumns == 1));

  // The copies of a step: the keys of the next one and the values that it needs.
  template <bool kIsValue>
  __device__ __forceinline__ void copy_next(const BlockWalk& blocks, int step) const {
    const int target = step + 1 - (kIsValue ? kLag : 0);
    KeyCopy<kIsValue>(*this, kept_facts(), blocks.block(target), target, target < blocks.total()).copy();
  }

  // One step at full speed: weights of the block with the maxima of earlier ones, while the next tiles are copied and, where they
  // lag, the values of the step before are added. False if those maxima are no longer good: then the weights are still to be made.
  template <class Softmax>
  __device__ __forceinline__ bool advance(int step, const BlockWalk& blocks, bool is_covered, const LaneRows& lane,
                                          const typename Product::Queries& queries, Softmax& softmax,
                                          typename Product::Weights& weights, typename Product::Output& o) {
    float part[kRows];
#pragma unroll
    for (int n = 0; n < kRows; ++n) part[n] = 0;
    typename Product::Scores s;
    if constexpr (kLag == 1) {
      // In two bursts: each change from reading shared memory to copying into it costs some issue slots.
      Product::scores(queries, query_rows_at(), keys_at(step), s, [&](int c) {
        if (c == 0) copy_next<false>(blocks, step);
        if (c == Product::kSteps / 2) copy_next<true>(blocks, step);
      });
      copy_async_commit();
    } else {
      Product::scores(queries, query_rows_at(), keys_at(step), s, [](int) {});
    }
    if (!is_covered) hide_keys(s, lane, blocks.block(step) * C.tile_k + first_key());
    const auto weigh_part = [&](int n, int parts) {
      constexpr int kPairs = Product::kKeyTiles * kRows;
#pragma unroll
      for (int m = n * kPairs / parts; m < (n + 1) * kPairs / parts; ++m) {
        const int row = m % kRows, t = m / kRows;
        softmax.weigh_ahead(s[row / 2][t][row % 2 * 2], s[row / 2][t][row % 2 * 2 + 1], row, factor(), part);
      }
    };
    if constexpr (kLag == 1) {
      Product::values(weights, values_at(step - 1), weights_at(step - 1), o, column(),
                      [&](int n) { weigh_part(n, Product::kValueSteps); });
    } else {
      weigh_part(0, 1);
    }
    Product::pack(s, weights);
    bool fails = softmax.is_too_much(part, C.tile_k / 4);
    if constexpr (kColumns == 1) {
      fails = __any_sync(0xffffffffu, fails);
    } else {
      Product::share(weights, weights_at(step), column());
      fails = any_of_group(1 + row_group(), 32 * kColumns, fails);
    }
    if (!fails) softmax.accept(part);
    return !fails;
  }

  __device__ __forceinline__ unsigned keys_at(int step) const {
    return shared + C.k_at() + (step % C.kStages * C.tile_k + first_key()) * C.row_bytes();
  }
  __device__ __forceinline__ unsigned values_at(int step) const {
    return shared + C.v_at() + step % C.kStages * C.tile_k * C.row_bytes_v();
  }

  __device__ __forceinline__ unsigned weights_at(int step) const {
    return shared + C.weights_at() + (step % 2 * C.tile_q + row_group() * 16 * kStrips) * C.tile_k * 2;
  }
  // One number a row of each column of warps.
  __device__ __forceinline__ unsigned number_at(int of_column, int n) const {
    return shared + C.numbers_at() + ((row_group() * kColumns + of_column) * 16 * kStrips + row_of(n) - warp_row) * 4;
  }
  __device__ __forceinline__ void share_numbers(const float (&x)[kRows]) const {
    if (lane_id() % 4 == 0) {
#pragma unroll
      for (int n = 0; n < kRows; ++n) store_shared_float(number_at(column(), n), x[n]);
    }
    sync_columns();
  }

  // Weights of one block, the older results rescaled where a maximum moves.
  template <class Softmax>
  __device__ __forceinline__ void weigh(int block, int step, bool is_covered, const LaneRows& lane,
                                        const typename Product::Queries& queries, Softmax& softmax,
                                        typename Product::Weights& weights, typename Product::Output& o) {
    const int j0 = block * C.tile_k + first_key();
    typename Product::Scores s;
    Product::scores(queries, query_rows_at(), keys_at(step), s, [](int) {});
    if constexpr (C.is_scaled) finish_scores(s, lane, j0);
    if (!is_covered) hide_keys(s, lane, j0);
    float alpha[kRows];
    const bool moves = softmax.step(s, factor(), alpha, [&](float(&next)[kRows]) {
      if constexpr (kColumns > 1) {
        share_numbers(next);
#pragma unroll
        for (int n = 0; n < kRows; ++n) next[n] = fmaxf(next[n], load_shared_float(number_at(1 - column(), n)));
      }
    });
    if (moves) {
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
    Product::pack(s, weights);
    if constexpr (kColumns > 1) {
      Product::share(weights, weights_at(step), column());
      sync_columns();
    }
  }

  // ---- The walk ----

  // The first copies of an item: its queries, its first keys and, where they do not lag, their values.
  __device__ __forceinline__ void begin_copies(const KeyFacts& facts, const BlockWalk& blocks) {
    if constexpr (C.is_paged) {
      for (int step = 0; step < min(blocks.total(), 2); ++step) {
        SlotAhead ahead;
        find_slots(ahead, blocks.block(step));
        keep_slots(ahead, step);
      }
      __syncthreads();
    }
    load_queries();
    KeyCopy<false>(*this, facts, blocks.block(0), 0, true).copy();
    if constexpr (kLag == 0) KeyCopy<true>(*this, facts, blocks.block(0), 0, true).copy();
  }

  template <class Softmax>
  __device__ __forceinline__ void walk(const BlockWalk& blocks, const LaneRows& lane, const Reach& reach, Softmax& softmax,
                                       typename Product::Output& o) {
    const int total = blocks.total();
    SlotAhead ahead;
    typename Product::Queries queries;
    if constexpr (C.keeps_queries) {
      copy_async_wait<0>();
      __syncthreads();
      Product::keep_queries(query_rows_at(), queries);
    }
    typename Product::Weights weights;
    bool has_weights = false;  // of the step before
#pragma unroll 1
    for (int step = 0; step < total + kLag; ++step) {
      copy_async_wait<0>();
      __syncthreads();  // this step's tiles have arrived, and everyone has left those of the step before
      const int block = blocks.block(step);
      const bool has_keys = (kLag == 0 || step < total) && reach.touches(block * C.tile_k, C.tile_k);
      const bool is_covered = reach.covers(block * C.tile_k, C.tile_k);
      if constexpr (C.is_paged) {
        if (step + 2 < total) find_slots(ahead, blocks.block(step + 2));
      }
      bool is_done = false;
      const bool is_steady = kAhead && has_keys && softmax.is_steady && (kLag == 0 || has_weights);
      if (kLag == 0 || !is_steady) {
        if (step < total) {
          copy_next<false>(blocks, step);
          copy_next<true>(blocks, step);
        }
        copy_async_commit();
        if (kLag == 1 && has_weights) add_values(step - 1, weights, o);
      }
      if constexpr (kAhead) {
        if (is_steady) is_done = advance(step, blocks, is_covered, lane, queries, softmax, weights, o);
      }
      if (has_keys && !is_done) weigh(block, step, is_covered, lane, queries, softmax, weights, o);
      if (kLag == 0 && has_keys) add_values(step, weights, o);
      has_weights = has_keys;
      if constexpr (C.is_paged) {
        if (step + 2 < total) keep_slots(ahead, step + 2);
      }
    }
  }

  __device__ __forceinline__ void add_values(int step, const typename Product::Weights& weights,
                                             typename Product::Output& o) const {
    Product::values(weights, values_at(step), weights_at(step), o, column(), [](int) {});
  }

  // ---- Items ----

  // False if the item has no rows.
  __device__ __forceinline__ bool open(int n_item) {
    item = decode_item(p, n_item);
    request = find_request<C.has_lengths>(p, item.request);
    rows = static_cast<int>(request.s_q) * static_cast<int>(p.pack.value);
    warp_row = item.tile * C.tile_q + row_group() * 16 * kStrips;
    return item.tile * C.tile_q < rows;
  }

  __device__ __forceinline__ BlockWalk blocks_of() const {
    const int first = item.tile * C.tile_q;
    const Reach tile_reach = reach_of<C.mask>(p, request.rule, first, min(first + C.tile_q, rows) - 1);
    KeyRange range{0, static_cast<int>(request.s_k)};
    if constexpr (C.has_splits) range = split_keys(p, range.end, C.tile_k, item.split);
    return walk_blocks<C.mask>(tile_reach, C.tile_k, range.begin, range.end);
  }

  // What this warp's rows see; nothing, if it has none.
  __device__ __forceinline__ Reach warp_reach() const {
    Reach reach = reach_of<C.mask>(p, request.rule, min(warp_row, rows - 1), min(warp_row + 16 * kStrips, rows) - 1);
    if (warp_row >= rows) reach.last_row.hi = reach.last_row.first = 0;
    return reach;
  }

  // The item's number waits in shared memory until it is needed again.
  __device__ __forceinline__ void keep_item(int n) const {
    if (threadIdx.x == 0) store_shared_u32(shared + C.item_at(), static_cast<unsigned>(n));
  }
  __device__ __forceinline__ int kept_item() const { return static_cast<int>(load_shared_u32(shared + C.item_at())); }

  __device__ __forceinline__ void run(int n_item) {
    if (!open(n_item)) return;
    keep_item(n_item);
    const KeyFacts facts = key_facts();
    keep_facts(facts);
    RunningSoftmax<kStrips, C.dtype == DType::f32 || C.is_scaled> softmax;
    typename Product::Output o;
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
#pragma unroll
      for (int t = 0; t < Product::kValueTiles; ++t) o[r][t][0] = o[r][t][1] = o[r][t][2] = o[r][t][3] = 0;
    }
    const BlockWalk blocks = blocks_of();
    if (blocks.total() > 0) {
      begin_copies(facts, blocks);
      copy_async_commit();
      LaneRows lane;
      open_rows(lane);
      walk(blocks, lane, warp_reach(), softmax, o);
    }
    __syncthreads();
    finish(softmax);
    const int item_again = kept_item();  // once more, so that none of it is kept in registers through the walk
    open(item_again);
    if constexpr (C.has_splits) {
      write_partial(o, softmax, item_again);
    } else {
      write(o, softmax);
    }
  }

  template <class Softmax>
  __device__ __forceinline__ void finish(Softmax& softmax) const {
    softmax.finish();
    if constexpr (kColumns > 1) {
      share_numbers(softmax.sum);
#pragma unroll
      for (int n = 0; n < kRows; ++n) softmax.sum[n] = load_shared_float(number_at(0, n)) + load_shared_float(number_at(1, n));
    }
  }
};

template <Sm80ForwardConfig C>
__device__ __forceinline__ void sm80_forward(const ForwardParams& p) {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  Sm80Forward<C> forward(p, shared_address(shared_memory));
  if constexpr (C.has_dropout) forward.dropout = dropout_key_of(p);
#pragma unroll 1
  for (long long item = blockIdx.x; item < p.items; item += gridDim.x) {
    forward.run(static_cast<int>(item));
    __syncthreads();
  }
}

}  // namespace flash_attn::cuda
