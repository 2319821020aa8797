// Attention forward on Hopper (sm_90a): tensor maps bring tiles in and out, wgmma multiplies, warp groups specialise.
//
//   warp group 0, one thread    draws tiles, publishes them, loads Q, K, V
//   warp groups 1..groups       64 query rows each: S = Q K^T, softmax in registers, O += P V with P from registers
//
// Barriers (all mbarriers; counts in brackets): q_full[2][groups] tx, q_empty[2][groups] 1; k_full, v_full[stages] tx, k_empty,
// v_empty [stages] one arrival a group; item_full[2] 1, item_empty[2] one arrival a consumer warp. Named barriers: 1 + g turns, 8 +
// g one group. A group's first product of the next tile starts behind the last product of this one, so the epilogue runs beneath
// it.
#pragma once

#include "ptx/mbarrier.cuh"
#include "ptx/special.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "sm90_configs.h"
#include "sm90_softmax.cuh"
#include "sm90_request.cuh"

namespace flash_attn::cuda {

template <int kColumns>
struct Wgmma;  // m64 n kColumns k16 products, generated with the kernel

// The q buffer of the count-th tile of a block, and the phase of its barriers.
template <class Config>
__device__ __forceinline__ int q_slot(int count) {
  return Config::value.overlaps_tiles ? count & 1 : 0;
}
template <class Config>
__device__ __forceinline__ int q_phase(int count) {
  return Config::value.overlaps_tiles ? (count >> 1) & 1 : count & 1;
}

// A tile of query rows of one head, and the key blocks [first, last) it meets. m < 0: no more.
struct Sm90Item {
  int m, first, last, s_k;      // first 16 bytes of its slot in shared memory
  int head, batch, s_q, q_row;  // the other 16
};

template <class Config>
__device__ __forceinline__ Sm90Item find_item(const Sm90ForwardParams& p, int tile, Sm90Request* request) {
  constexpr Sm90ForwardConfig c = Config::value;
  const int per_section = p.section * p.tiles_q;
  const int s = tile / per_section, rest = tile - s * per_section;
  const int first_head = s * p.section;
  const int heads = min(p.section, p.b * p.h_q - first_head);
  int m = rest / heads;
  const int head = first_head + (rest - m * heads);
  if (c.mask != Sm90Mask::none) m = p.tiles_q - 1 - m;  // the longest first
  Sm90Item item;
  item.batch = head / p.h_q;
  item.head = head - item.batch * p.h_q;
  item.m = m;
  *request = read_request<Config>(p, item.batch);
  item.s_q = request->s_q;
  item.s_k = request->s_k;
  item.q_row = request->q_row;
  item.first = 0;
  int end = item.s_k;
  if constexpr (c.mask != Sm90Mask::none) {
    const MaskRule rule = read_rule<Config>(p, item.batch, item.s_q, item.s_k);
    end = static_cast<int>(key_interval(rule, min((m + 1) * c.tile_q(), max(item.s_q, 1)) - 1).hi);
    if constexpr (c.mask == Sm90Mask::interval) item.first = static_cast<int>(key_interval(rule, m * c.tile_q()).lo) / c.tile_k;
  }
  item.last = (end + c.tile_k - 1) / c.tile_k;
  // No visible key: one block, all of it masked, keeps the pipeline free of special cases.
  if (item.last <= item.first) item.first = max(item.last - 1, 0), item.last = item.first + 1;
  return item;
}

// ---- Producer ----

template <class Config>
__device__ __forceinline__ void produce(const TensorMap* map_q, const TensorMap* map_k, const TensorMap* map_v,
                                        const Sm90ForwardParams& p, unsigned smem) {
  constexpr Sm90ForwardConfig c = Config::value;
  constexpr Sm90Layout at(c);
  const int group_size = p.h_q / p.h_k;
  int k_stage = 0, k_phase = 0, v_stage = 0, v_phase = 0, count = 0;

  const auto load_tile = [&](const TensorMap* map, int base, int bytes, int slabs, int full, int empty, int& stage, int& phase,
                             MapPoint from) __attribute__((always_inline)) {
    barrier_wait(smem + empty + 8 * stage, phase ^ 1);
    barrier_arrive_expect(smem + full + 8 * stage, bytes);
    for (int slab = 0; slab < slabs; ++slab) {
      from.column = slab * Sm90ForwardConfig::kSlab;
      tma_load(smem + base + stage * bytes + slab * c.tile_k * 128, map, smem + full + 8 * stage, from, kEvictLast);
    }
    if (++stage == c.stages) stage = 0, phase ^= 1;
  };

  int tile = blockIdx.x;
  while (true) {
    Sm90Item item{-1, 0, 0, 0, 0, 0, 0, 0};
    Sm90Request request{};
    while (tile < p.tiles) {
      item = find_item<Config>(p, tile, &request);
      if (!c.has_lengths || item.m * c.tile_q() < item.s_q) break;
      item.m = -1;  // past this request's rows
      tile = c.is_dynamic ? atomicAdd(p.counter, 1u) + gridDim.x : tile + gridDim.x;
    }
    const int slot = count & 1;
    barrier_wait(smem + at.item_empty + 8 * slot, ((count >> 1) & 1) ^ 1);
    store_shared4(smem + at.items + 32 * slot, item.m, item.first, item.last, item.s_k);
    store_shared4(smem + at.items + 32 * slot + 16, item.head, item.batch, item.s_q, item.q_row);
    barrier_arrive(smem + at.item_full + 8 * slot);
    if (item.m < 0) break;

    const int head_k = item.head / group_size;
    const MapPoint keys = first_row<Config>(request.k_row, item.s_k, head_k, request.k_batch, p.batch_rows_k);
    const auto block = [&](int i) { return MapPoint{0, keys.row + i * c.tile_k, keys.outer0, keys.outer1, keys.outer2}; };
    load_tile(map_k, at.k, at.k_tile, c.slabs(), at.k_full, at.k_empty, k_stage, k_phase, block(item.last - 1));
    for (int g = 0; g < c.groups; ++g) {
      const int buffer = q_slot<Config>(count), bar = 8 * (buffer * c.groups + g);
      barrier_wait(smem + at.q_empty + bar, q_phase<Config>(count) ^ 1);
      barrier_arrive_expect(smem + at.q_full + bar, at.q_group);
      MapPoint rows = first_row<Config>(item.q_row, item.s_q, item.head, p.cu_seqlens_q ? 0 : item.batch, p.batch_rows_q);
      rows.row += item.m * c.tile_q() + g * 64;
      for (int slab = 0; slab < c.slabs(); ++slab) {
        rows.column = slab * Sm90ForwardConfig::kSlab;
        tma_load(smem + at.q + buffer * at.q_all + g * at.q_group + slab * 64 * 128, map_q, smem + at.q_full + bar, rows,
                 kEvictFirst);
      }
    }
    ++count;
    // Draw the next tile while this one's loads are in flight.
    tile = c.is_dynamic ? atomicAdd(p.counter, 1u) + gridDim.x : tile + gridDim.x;
#pragma unroll 1
    for (int i = item.last - 1; i > item.first; --i) {
      load_tile(map_k, at.k, at.k_tile, c.slabs(), at.k_full, at.k_empty, k_stage, k_phase, block(i - 1));
      load_tile(map_v, at.v, at.v_tile, c.slabs_v(), at.v_full, at.v_empty, v_stage, v_phase, block(i));
    }
    load_tile(map_v, at.v, at.v_tile, c.slabs_v(), at.v_full, at.v_empty, v_stage, v_phase, block(item.first));
  }
  // The last block to finish leaves the counters zero for the next launch.
  if (c.is_dynamic && atomicAdd(p.counter + 1, 1u) == gridDim.x - 1) p.counter[0] = 0, p.counter[1] = 0;
}

// ---- Consumers ----

template <class Config>
struct Sm90Consumer {
  static constexpr Sm90ForwardConfig c = Config::value;
  static constexpr Sm90Layout at{c};
  // 128-byte swizzle; 1024 bytes between groups of 8 rows.
  static constexpr unsigned kDescriptorHigh = (1u << 30) | (1024 >> 4);
  static constexpr bool kShapes = c.has_softcap || c.has_alibi;

  const Sm90ForwardParams& p;
  const TensorMap* map_o;
  unsigned smem;
  int group, lane, warp, row_in_group;
  bool leader;
  unsigned q_low, k_low, v_low;
  int k_stage = 0, k_phase = 0, v_stage = 0, v_phase = 0;
  float O[c.d_v / 2], S[c.tile_k / 2];
  unsigned P[c.tile_k / 4];

  __device__ __forceinline__ Sm90Consumer(const Sm90ForwardParams& params, const TensorMap* o, unsigned shared, int g)
      : p(params), map_o(o), smem(shared), group(g) {
    lane = threadIdx.x & 31;
    warp = (threadIdx.x >> 5) & 3;
    row_in_group = warp * 16 + lane / 4;
    leader = (threadIdx.x & 127) == 0;
    const auto low = [&](int base, int group_bytes) {
      return __shfl_sync(0xffffffffu, (((smem + base) & 0x3ffff) >> 4) | ((group_bytes >> 4) << 16), 0);
    };
    q_low = low(at.q + group * at.q_group, 0);
    k_low = low(at.k, 0);
    v_low = low(at.v, c.tile_k * 128);  // V is read column-major: the next 64 columns lie a slab further
  }

  __device__ __forceinline__ void begin_turn() {
    if (c.takes_turns) named_sync(1 + group, 256);
  }
  __device__ __forceinline__ void end_turn() {
    if (c.takes_turns) named_arrive(1 + (group + 1 == c.groups ? 0 : group + 1), 256);
  }

  __device__ __forceinline__ void issue_scores(int count) {
    const unsigned q = q_low + q_slot<Config>(count) * (at.q_all >> 4), k = k_low + k_stage * (at.k_tile >> 4);
    pin(S);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < c.d / 16; ++i)
      Wgmma<c.tile_k>::ss(S, q + (i / 4) * (64 * 128 >> 4) + (i % 4) * 2, kDescriptorHigh,
                          k + (i / 4) * (c.tile_k * 128 >> 4) + (i % 4) * 2, kDescriptorHigh, i > 0);
    wgmma_commit();
  }

  __device__ __forceinline__ void issue_values(int accumulates) {
    pin(O);
    pin(P);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < c.tile_k / 16; ++i)
      Wgmma<c.d_v>::rs(O, P[4 * i], P[4 * i + 1], P[4 * i + 2], P[4 * i + 3], v_low + v_stage * (at.v_tile >> 4) + i * (2048 >> 4),
                       kDescriptorHigh, i > 0 ? 1 : accumulates);
    wgmma_commit();
  }

  __device__ __forceinline__ void release_k() {
    if (leader) barrier_arrive(smem + at.k_empty + 8 * k_stage);
    if (++k_stage == c.stages) k_stage = 0, k_phase ^= 1;
  }
  __device__ __forceinline__ void release_v() {
    if (leader) barrier_arrive(smem + at.v_empty + 8 * v_stage);
    if (++v_stage == c.stages) v_stage = 0, v_phase ^= 1;
  }

  __device__ __forceinline__ void release_q(int count) {
    barrier_arrive(smem + at.q_empty + 8 * (q_slot<Config>(count) * c.groups + group));
  }

  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int i = 0; i < c.tile_k / 4; ++i) P[i] = pack2<c.dtype>(S[2 * i], S[2 * i + 1]);
  }

  // What the loop over blocks needs of a tile.
  struct Span {
    int m, first, last, s_k;
  };
  __device__ __forceinline__ Span fetch_span(int count) {
    Span span;
    barrier_wait(smem + at.item_full + 8 * (count & 1), (count >> 1) & 1);
    load_shared4(smem + at.items + 32 * (count & 1), span.m, span.first, span.last, span.s_k);
    span.m = __shfl_sync(0xffffffffu, span.m, 0);
    span.first = __shfl_sync(0xffffffffu, span.first, 0);
    span.last = __shfl_sync(0xffffffffu, span.last, 0);
    return span;
  }

  // The rest, read again where it is needed: registers are too dear to keep it over the loop.
  __device__ __forceinline__ Sm90Item complete(const Span& span, int count) {
    Sm90Item item{span.m, span.first, span.last, span.s_k, 0, 0, 0, 0};
    load_shared4(smem + at.items + 32 * (count & 1) + 16, item.head, item.batch, item.s_q, item.q_row);
    return item;
  }
  __device__ __forceinline__ void release_item(int count) {
    __syncwarp();
    if (lane == 0) barrier_arrive(smem + at.item_empty + 8 * (count & 1));
  }

  // The first scores of a tile. Without a tile the product still runs, over whatever lies there, so that the stream has no branch.
  __device__ __forceinline__ void begin_item(int count, bool is_valid) {
    if (is_valid) {
      barrier_wait(smem + at.q_full + 8 * (q_slot<Config>(count) * c.groups + group), q_phase<Config>(count));
      barrier_wait(smem + at.k_full + 8 * k_stage, k_phase);
    }
    issue_scores(count);
  }

  // Everything about the current tile's rows that blocks need.
  struct Rows {
    int lo[2], hi[2], diagonal[2];
    float slope[2];
    int clear_first, clear_last;  // blocks that need no mask for any row of the group
  };

  __device__ __forceinline__ Rows open_rows(const Sm90Item& item) {
    Rows rows;
    const int row0 = item.m * c.tile_q() + group * 64;
    const int first_column = 2 * (lane & 3);
    rows.clear_first = item.first;
    rows.clear_last = item.s_k / c.tile_k;
#pragma unroll
    for (int r = 0; r < 2; ++r) rows.lo[r] = 0, rows.hi[r] = item.s_k - first_column, rows.diagonal[r] = 0, rows.slope[r] = 0.f;
    if constexpr (c.mask != Sm90Mask::none || c.has_alibi) {
      const MaskRule rule = read_rule<Config>(p, item.batch, item.s_q, item.s_k);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = row0 + row_in_group + 8 * r;
        if constexpr (c.mask != Sm90Mask::none) {
          const KeyInterval keys = key_interval(rule, row);
          rows.lo[r] = static_cast<int>(keys.lo) - first_column;
          rows.hi[r] = static_cast<int>(keys.hi) - first_column;
        }
        if constexpr (c.has_alibi) {
          rows.slope[r] = p.alibi[item.batch * p.alibi_batch_stride + item.head] * 1.4426950408889634f;
          rows.diagonal[r] = static_cast<int>(clamp_to(row + rule.delta, -(1LL << 30), 1LL << 30)) - first_column;
        }
      }
      if constexpr (c.mask != Sm90Mask::none) {
        // Limits grow with the row: the group's first row ends first, its last row begins last.
        rows.clear_last = static_cast<int>(key_interval(rule, row0).hi) / c.tile_k;
        if constexpr (c.mask == Sm90Mask::interval) {
          const KeyInterval last = key_interval(rule, min(row0 + 63, max(item.s_q, 1) - 1));
          rows.clear_first = (static_cast<int>(last.lo) + c.tile_k - 1) / c.tile_k;
        }
      }
    }
    return rows;
  }

  template <bool kMasked>
  __device__ __forceinline__ bool soften_block(const Rows& rows, RowState& state, int block) {
    const int column = block * c.tile_k;
    if constexpr (kShapes) {
      const int diagonal[2] = {rows.diagonal[0] - column, rows.diagonal[1] - column};
      shape_scores<Config, c.tile_k>(S, p.scale, p.softcap, rows.slope, diagonal);
    }
    if constexpr (kMasked) {
      const RowLimits limits{{rows.lo[0] - column, rows.lo[1] - column}, {rows.hi[0] - column, rows.hi[1] - column}};
      hide_scores<c.tile_k, c.mask == Sm90Mask::interval>(S, limits);
    }
    return soften<Config, kMasked, c.tile_k>(S, state, kShapes ? 1.f : p.scale_log2);
  }

  // Scores of `block` and values of the block above it are in flight while the softmax of `block` runs.
  template <bool kMasked>
  __device__ __forceinline__ void step(int count, const Rows& rows, RowState& state, int block, int& accumulates) {
    barrier_wait(smem + at.k_full + 8 * k_stage, k_phase);
    begin_turn();
    issue_scores(count);
    barrier_wait(smem + at.v_full + 8 * v_stage, v_phase);
    issue_values(accumulates);
    accumulates = 1;
    end_turn();
    wgmma_wait<1>();
    pin(S);
    release_k();
    const bool rescales = soften_block<kMasked>(rows, state, block);
    wgmma_wait<0>();
    pin(O);
    pin(P);
    release_v();
    pack_weights();
    if (rescales) {
#pragma unroll
      for (int x = 0; x < c.d_v / 2; ++x) O[x] *= state.alpha[(x >> 1) & 1];
    }
  }

  // Normaliser of each row; writes the log-sum-exp.
  __device__ __forceinline__ void finish_rows(const Sm90Item& item, RowState& state, float (&factor)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = state.sum[r];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      float top = kShapes ? state.top[r] : state.top[r] * p.scale_log2;
      float shrink = 1.f;
      if (p.sink) {
        const float sink = p.sink[item.head] * 1.4426950408889634f;
        const float joint = fmaxf(fmaxf(sum > 0.f ? top : minus_infinity(), sink), -3.0e38f);
        shrink = sum > 0.f ? exp2_fast(top - joint) : 0.f;
        sum = sum * shrink + exp2_fast(sink - joint);
        top = joint;
      }
      factor[r] = sum > 0.f ? shrink / sum : (sum == 0.f ? 0.f : sum);  // NaN stays visible
      const int row = item.m * c.tile_q() + group * 64 + row_in_group + 8 * r;
      if (p.lse && (lane & 3) == 0 && row < item.s_q)
        p.lse[item.batch * p.lse_axes.batch + item.head * p.lse_axes.head + (item.q_row + row) * p.lse_axes.row] =
            sum == 0.f ? minus_infinity() : (top + log2_fast(sum)) * 0.6931471805599453f;
    }
  }

  __device__ __forceinline__ void stage_output(unsigned target, const float (&factor)[2]) {
    const int row = warp * 16 + (lane & 15);
#pragma unroll
    for (int i = 0; i < c.d_v / 16; ++i) {
      const unsigned chunk = (2 * (i % 4) + (lane >> 4)) ^ (row & 7);
      unsigned x[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float f = factor[e & 1];
        x[e] = f == 0.f ? 0u : pack2<c.dtype>(O[8 * i + 2 * e] * f, O[8 * i + 2 * e + 1] * f);
      }
      store_matrix4(target + row * 128 + (i / 4) * (64 * 128) + chunk * 16, x[0], x[1], x[2], x[3]);
    }
  }

  __device__ __forceinline__ void write_output(const Sm90Item& item, unsigned source) {
    MapPoint to = first_row<Config>(item.q_row, item.s_q, item.head, p.cu_seqlens_q ? 0 : item.batch, p.batch_rows_q);
    to.row += item.m * c.tile_q() + group * 64;
    for (int slab = 0; slab < c.slabs_v(); ++slab) {
      to.column = slab * Sm90ForwardConfig::kSlab;
      tma_store(map_o, source + slab * 64 * 128, to);
    }
    tma_store_commit();
  }

  __device__ __forceinline__ void run() {
    if (c.takes_turns && group == c.groups - 1) named_arrive(1, 256);  // group 0 goes first
    int count = 0;
    Span item = fetch_span(0);
    if (item.m < 0) return;
    begin_item(0, true);
    wgmma_wait<0>();
    pin(S);
    while (true) {
      const Rows rows = open_rows(complete(item, count));
      RowState state;
      int accumulates = 0;
      release_k();
      int block = item.last - 1;
      if (block < rows.clear_last && block >= rows.clear_first)
        soften_block<false>(rows, state, block);
      else
        soften_block<true>(rows, state, block);
      pack_weights();
      // o of the tile before has left its buffer.
      if (c.overlaps_tiles && leader) {
        tma_store_wait_read();
        if (c.shares_q_buffer && count > 0) release_q(count - 1);
      }
      --block;
#pragma unroll 1
      for (; block >= max(item.first, rows.clear_last); --block) step<true>(count, rows, state, block, accumulates);
#pragma unroll 1
      for (; block >= max(item.first, rows.clear_first); --block) step<false>(count, rows, state, block, accumulates);
      if constexpr (c.mask == Sm90Mask::interval) {
#pragma unroll 1
        for (; block >= item.first; --block) step<true>(count, rows, state, block, accumulates);
      }
      barrier_wait(smem + at.v_full + 8 * v_stage, v_phase);
      // All scores of this tile are done: its q buffer is free, unless o is staged there.
      if (!c.shares_q_buffer && leader) release_q(count);

      // The last values of this tile, then the first scores of the next one: the epilogue hides behind them.
      issue_values(accumulates);
      Span next;
      if constexpr (c.overlaps_tiles) {
        next = fetch_span(count + 1);
        begin_item(count + 1, next.m >= 0);
      }
      const Sm90Item done = complete(item, count);
      float factor[2];
      finish_rows(done, state, factor);
      named_sync(8 + group, 128);  // everyone knows that the staging buffer is free
      wgmma_wait<c.overlaps_tiles ? 1 : 0>();
      pin(O);
      release_v();
      const unsigned staging =
          smem + (c.shares_q_buffer ? at.q + q_slot<Config>(count) * at.q_all + group * at.q_group : at.o + group * at.o_group);
      stage_output(staging, factor);
      fence_async_proxy();
      named_sync(8 + group, 128);
      if (leader) write_output(done, staging);
      release_item(count);
      if constexpr (!c.overlaps_tiles) {
        if (leader) {
          tma_store_wait_read();
          if (c.shares_q_buffer) release_q(count);
        }
        next = fetch_span(count + 1);
        if (next.m < 0) break;
        begin_item(count + 1, true);
      }
      wgmma_wait<0>();
      pin(S);
      ++count;
      if (next.m < 0) break;
      item = next;
    }
    if (leader) tma_store_wait();
  }
};

// ---- Kernel ----

template <class Config>
__device__ __forceinline__ void sm90_forward(const Sm90ForwardArguments& arguments) {
  constexpr Sm90ForwardConfig c = Config::value;
  constexpr Sm90Layout at(c);
  constexpr int launch_registers = 65536 / c.threads() / 8 * 8;
  static_assert(c.groups * c.consumer_registers + c.producer_registers <= launch_registers * (c.groups + 1),
                "setmaxnreg would wait for ever");
  static_assert(c.d % 16 == 0 && c.d_v % 16 == 0 && c.tile_k % 16 == 0, "tiles are whole instructions");
  static_assert(!c.shares_q_buffer || at.o_group <= at.q_group, "o must fit where q was");
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  const unsigned smem = shared_address(shared_memory);
  const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (threadIdx.x == 0) {
    prefetch_map(&arguments.q);
    prefetch_map(&arguments.k);
    prefetch_map(&arguments.v);
    prefetch_map(&arguments.o);
    for (int i = 0; i < 2 * c.groups; ++i) barrier_init(smem + at.q_full + 8 * i, 1), barrier_init(smem + at.q_empty + 8 * i, 1);
    for (int i = 0; i < c.stages; ++i) {
      barrier_init(smem + at.k_full + 8 * i, 1), barrier_init(smem + at.k_empty + 8 * i, c.groups);
      barrier_init(smem + at.v_full + 8 * i, 1), barrier_init(smem + at.v_empty + 8 * i, c.groups);
    }
    for (int i = 0; i < 2; ++i)
      barrier_init(smem + at.item_full + 8 * i, 1), barrier_init(smem + at.item_empty + 8 * i, 4 * c.groups);
    barrier_init_fence();
  }
  __syncthreads();
  if (group == 0) {
    shrink_registers<c.producer_registers>();
    if (threadIdx.x == 0) produce<Config>(&arguments.q, &arguments.k, &arguments.v, arguments.params, smem);
  } else {
    grow_registers<c.consumer_registers>();
    Sm90Consumer<Config> consumer(arguments.params, &arguments.o, smem, group - 1);
    consumer.run();
  }
}

}  // namespace flash_attn::cuda
