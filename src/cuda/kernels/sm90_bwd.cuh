// Attention backward on Hopper (sm_90a): a block owns 128 keys and walks over the query tiles that see them; dK and dV stay in
// registers, dQ leaves every step as an addition to sums in memory.
//
//   warp group 0          producer: one thread loads K and V once, and Q, dO and their rows' statistics every step
//   warp groups 1, 2      consumers, 64 keys each: S^T = K Q^T and dP^T = V dO^T have keys as rows, so that P^T and dS^T, still in
//                         registers, are the first operands of dV += P^T dO and dK += dS^T Q; dS goes to shared memory
//   warp group 3          reducer: dQ = dS K of all 128 keys, added to memory while the consumers go on
//
// Barriers (all mbarriers; counts in brackets): k_full, v_full tx; q_full, dout_full[2] tx, q_empty, dout_empty[2] one arrival a
// consumer warp; ds_full[2] one a consumer warp, ds_empty[2] one a reducer warp. A warp group has nothing to compute for a tile
// whose queries see none of its keys, but it takes part in the tile's barriers.
#pragma once

#include "ptx/async_copy.cuh"
#include "ptx/bulk.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/reduce.cuh"
#include "ptx/special.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "sm90_bwd_schedule.cuh"

namespace flash_attn::cuda {

template <int kColumns>
struct Wgmma;  // m64 n kColumns k16 products, generated with the kernel

// Operands in shared memory: 128-byte swizzle, 1024 bytes between groups of 8 rows.
constexpr unsigned kSwizzledRows = (1u << 30) | (1024 >> 4);

// ---- Producer ----

template <int kSlabs, int kRows>
__device__ __forceinline__ void load_tile(unsigned target, const TensorMap* map, unsigned full, MapPoint from,
                                          unsigned long long policy) {
#pragma unroll
  for (int slab = 0; slab < kSlabs; ++slab) {
    from.column = slab * Sm90BackwardConfig::kSlab;
    tma_load(target + slab * kRows * 128, map, full, from, policy);
  }
}

template <class Config>
__device__ __forceinline__ void produce(const Sm90BackwardArguments& a, unsigned smem) {
  constexpr Sm90BackwardConfig c = Config::value;
  constexpr Sm90BackwardLayout at(c);
  const BackwardTask task = get_task(smem + at.task);
  if (task.steps() == 0) return;
  int row_q, outer_q, row_k, outer_k, batch, head_k, stat_row, unused;
  load_shared4(smem + at.task + 32, row_q, outer_q, row_k, outer_k);
  load_shared4(smem + at.task + 48, batch, head_k, stat_row, unused);
  const MapPoint keys = task_point<Config>(row_k, outer_k, head_k, batch);
  barrier_arrive_expect(smem + at.k_full, at.k_tile);
  load_tile<c.slabs(), c.kTileK>(smem + at.k, &a.k, smem + at.k_full, keys, kEvictFirst);
  int head = task.head;
  QueryWalk<Config> walk(task.tiles);
#pragma unroll 1
  for (int left = task.steps(); left > 0; --left) {
    const MapPoint rows = task_point<Config>(row_q + walk.m * c.tile_q, outer_q, head, batch);
    const long long stats = head * a.params.stat_rows + stat_row + walk.m * c.tile_q;
    const int slot = walk.slot(), phase = walk.phase();
    barrier_wait(smem + at.q_empty + 8 * slot, phase ^ 1);
    barrier_arrive_expect(smem + at.q_full + 8 * slot, at.q_tile + c.tile_q * 4);
    load_tile<c.slabs(), c.tile_q>(smem + at.q + slot * at.q_tile, &a.q, smem + at.q_full + 8 * slot, rows, kEvictLast);
    bulk_load(smem + at.lse + slot * c.tile_q * 4, a.params.row_lse2 + stats, c.tile_q * 4, smem + at.q_full + 8 * slot);
    if (walk.step == 0) {
      barrier_arrive_expect(smem + at.v_full, at.v_tile);
      load_tile<c.slabs_v(), c.kTileK>(smem + at.v, &a.v, smem + at.v_full, keys, kEvictFirst);
    }
    barrier_wait(smem + at.dout_empty + 8 * slot, phase ^ 1);
    barrier_arrive_expect(smem + at.dout_full + 8 * slot, at.dout_tile + c.tile_q * 4);
    load_tile<c.slabs_v(), c.tile_q>(smem + at.dout + slot * at.dout_tile, &a.dout, smem + at.dout_full + 8 * slot, rows,
                                     kEvictLast);
    bulk_load(smem + at.delta + slot * c.tile_q * 4, a.params.row_delta + stats, c.tile_q * 4, smem + at.dout_full + 8 * slot);
    if (walk.advance()) ++head;
  }
}

// ---- Consumers ----

template <class Config>
struct BackwardConsumer {
  static constexpr Sm90BackwardConfig c = Config::value;
  static constexpr Sm90BackwardLayout at{c};
  static constexpr int kTileQ = c.tile_q;

  const Sm90BackwardArguments& a;
  unsigned smem;
  int group, lane, warp;
  unsigned k_low, v_low, q_low, dout_low;
  float dK[c.d / 2], dV[c.d_v / 2], S[kTileQ / 2], T[kTileQ / 2];
  unsigned P[kTileQ / 4], W[kTileQ / 4];

  // What a thread's two keys (r and r + 8 of its warp's 16) see, in queries counted from its first column.
  struct Limits {
    int lo[2], hi[2];
    int clear_first, clear_last;  // queries that see all keys of the warp group
  };

  __device__ __forceinline__ BackwardConsumer(const Sm90BackwardArguments& arguments, unsigned shared, int g)
      : a(arguments), smem(shared), group(g) {
    lane = threadIdx.x & 31;
    warp = (threadIdx.x >> 5) & 3;
    const auto low = [&](int base) { return __shfl_sync(0xffffffffu, (smem + base) >> 4, 0); };
    k_low = low(at.k + group * 64 * 128);
    v_low = low(at.v + group * 64 * 128);
    q_low = low(at.q);
    dout_low = low(at.dout);
  }

  // S^T of the slot's queries, and dP^T likewise: keys by queries.
  __device__ __forceinline__ void issue_scores(int slot) {
    const unsigned q = q_low + slot * (at.q_tile >> 4);
    wgmma_fence();
    Wgmma<kTileQ>::ss_start(S, k_low, kSwizzledRows, q, kSwizzledRows);
#pragma unroll
    for (int i = 1; i < c.d / 16; ++i)
      Wgmma<kTileQ>::ss(S, k_low + (i / 4) * (c.kTileK * 128 >> 4) + (i % 4) * 2, kSwizzledRows,
                        q + (i / 4) * (kTileQ * 128 >> 4) + (i % 4) * 2, kSwizzledRows, 1);
    wgmma_commit();
  }
  __device__ __forceinline__ void issue_weight_gradients(int slot) {
    const unsigned dout = dout_low + slot * (at.dout_tile >> 4);
    wgmma_fence();
    Wgmma<kTileQ>::ss_start(T, v_low, kSwizzledRows, dout, kSwizzledRows);
#pragma unroll
    for (int i = 1; i < c.d_v / 16; ++i)
      Wgmma<kTileQ>::ss(T, v_low + (i / 4) * (c.kTileK * 128 >> 4) + (i % 4) * 2, kSwizzledRows,
                        dout + (i / 4) * (kTileQ * 128 >> 4) + (i % 4) * 2, kSwizzledRows, 1);
    wgmma_commit();
  }

  // dV += P^T dO and dK += dS^T Q, the second operands read by columns: 64 columns further lies the next slab.
  __device__ __forceinline__ void issue_dv(int slot, int accumulates) {
    const unsigned dout = (dout_low | ((kTileQ * 128 >> 4) << 16)) + slot * (at.dout_tile >> 4);
    pin(dV);
    pin(P);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kTileQ / 16; ++i)
      Wgmma<c.d_v>::rs(dV, P[4 * i], P[4 * i + 1], P[4 * i + 2], P[4 * i + 3], dout + i * (2048 >> 4), kSwizzledRows,
                       i > 0 ? 1 : accumulates);
    wgmma_commit();
  }
  __device__ __forceinline__ void issue_dk(int slot, int accumulates) {
    const unsigned q = (q_low | ((kTileQ * 128 >> 4) << 16)) + slot * (at.q_tile >> 4);
    pin(dK);
    pin(W);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kTileQ / 16; ++i)
      Wgmma<c.d>::rs(dK, W[4 * i], W[4 * i + 1], W[4 * i + 2], W[4 * i + 3], q + i * (2048 >> 4), kSwizzledRows,
                     i > 0 ? 1 : accumulates);
    wgmma_commit();
  }

  __device__ __forceinline__ void release(unsigned barrier, int slot) {
    if (lane == 0) barrier_arrive(smem + barrier + 8 * slot);
  }

  __device__ __forceinline__ Limits open_keys(const BackwardItem& item) {
    Limits limits;
    const int first = item.n * c.kTileK + group * 64, s_k = static_cast<int>(item.request.s_k);
    const int first_column = 2 * (lane & 3);
    const long long s_q = item.request.s_q;
    limits.clear_first = first + 63 < s_k ? 0 : 1 << 30;
    limits.clear_last = static_cast<int>(s_q);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int key = first + warp * 16 + lane / 4 + 8 * r;
      limits.lo[r] = key < s_k ? -8 : 1 << 30;
      limits.hi[r] = 1 << 30;
      if constexpr (c.mask != Sm90Mask::none) {
        const QueryInterval queries = query_interval(item.request.rule, s_q, key);
        if (key < s_k) limits.lo[r] = static_cast<int>(queries.lo) - first_column;
        limits.hi[r] = static_cast<int>(queries.hi) - first_column;
      }
    }
    if constexpr (c.mask != Sm90Mask::none) {
      if (first + 63 < s_k) limits.clear_first = static_cast<int>(query_interval(item.request.rule, s_q, first + 63).lo);
      if constexpr (c.mask == Sm90Mask::interval)
        limits.clear_last = static_cast<int>(query_interval(item.request.rule, s_q, first).hi);
    }
    return limits;
  }

  // P of the scores in S. `row` is the tile's first query.
  __device__ __forceinline__ void weigh(const Limits& limits, int row, unsigned lse, float scale_log2) {
#pragma unroll
    for (int j = 0; j < kTileQ / 8; ++j) {
      const float2 l = load_shared_float2(lse + j * 32);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        S[4 * j + 2 * r] = exp2_fast(fmaf(S[4 * j + 2 * r], scale_log2, -l.x));
        S[4 * j + 2 * r + 1] = exp2_fast(fmaf(S[4 * j + 2 * r + 1], scale_log2, -l.y));
      }
    }
    const bool is_clear = row >= limits.clear_first && (c.mask != Sm90Mask::interval || row + kTileQ <= limits.clear_last);
    if (is_clear) return;
#pragma unroll
    for (int j = 0; j < kTileQ / 8; ++j) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = 8 * j + e;
          bool is_hidden = column < limits.lo[r] - row;
          if constexpr (c.mask == Sm90Mask::interval) is_hidden = is_hidden || column >= limits.hi[r] - row;
          if (is_hidden) S[4 * j + 2 * r + e] = 0.f;
        }
      }
    }
  }

  // P and dS = P (dP - delta), rounded.
  __device__ __forceinline__ void differentiate(unsigned delta) {
#pragma unroll
    for (int j = 0; j < kTileQ / 8; ++j) {
      const float2 l = load_shared_float2(delta + j * 32);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int x = 4 * j + 2 * r;
        P[2 * j + r] = pack2<c.dtype>(S[x], S[x + 1]);
        W[2 * j + r] = pack2<c.dtype>(S[x] * (T[x] - l.x), S[x + 1] * (T[x + 1] - l.y));
      }
    }
  }

  // Of a tile whose queries see none of these keys only the barriers are passed.
  __device__ __forceinline__ void skip(const QueryWalk<Config>& walk) {
    const int slot = walk.slot(), phase = walk.phase();
    barrier_wait(smem + at.q_full + 8 * slot, phase);
    barrier_wait(smem + at.dout_full + 8 * slot, phase);
    release(at.q_empty, slot);
    release(at.dout_empty, slot);
    barrier_wait(smem + at.ds_empty + 8 * slot, phase ^ 1);
    release(at.ds_full, slot);
  }

  // A run of steps, all seen; the walk stands at its first and ends behind its last.
  __device__ __forceinline__ void run_steps(QueryWalk<Config>& walk, const Limits& limits, int steps, int& accumulates) {
    const int matrix = lane >> 3;
    const unsigned ds = smem + at.ds + group * (kTileQ * 128) + ((matrix >> 1) * 8 + (lane & 7)) * 128 +
                        (((warp * 2 + (matrix & 1)) ^ (lane & 7)) << 4);
    const unsigned lse = smem + at.lse + (lane & 3) * 8;
    const int last = walk.step + steps - 1;
    barrier_wait(smem + at.k_full, 0);
    barrier_wait(smem + at.q_full + 8 * walk.slot(), walk.phase());
    issue_scores(walk.slot());
    barrier_wait(smem + at.v_full, 0);
    int slot = walk.slot();
#pragma unroll 1
    while (true) {
      const int phase = walk.phase();
      barrier_wait(smem + at.dout_full + 8 * slot, phase);
      issue_weight_gradients(slot);
      wgmma_wait<1>();
      pin(S);
      weigh(limits, walk.m * kTileQ, lse + slot * (kTileQ * 4), a.scale_log2);
      wgmma_wait<0>();
      pin(T);
      differentiate(lse + (at.delta - at.lse) + slot * (kTileQ * 4));
      barrier_wait(smem + at.ds_empty + 8 * slot, phase ^ 1);
#pragma unroll
      for (int i = 0; i < kTileQ / 16; ++i)
        store_matrix4_transposed(ds + slot * at.ds_tile + i * 2048, W[4 * i], W[4 * i + 1], W[4 * i + 2], W[4 * i + 3]);
      fence_async_proxy();
      __syncwarp();
      release(at.ds_full, slot);
      // The last step leaves here: with the exit between a product's start and its wait ptxas would serialise.
      if (walk.step == last) break;
      issue_dv(slot, accumulates);
      issue_dk(slot, accumulates);
      accumulates = 1;
      const int done = slot;
      walk.advance();
      slot = walk.slot();
      barrier_wait(smem + at.q_full + 8 * slot, walk.phase());
      issue_scores(slot);
      wgmma_wait<1>();
      pin(dV);
      pin(dK);
      pin(P);
      pin(W);
      release(at.dout_empty, done);
      release(at.q_empty, done);
    }
    issue_dv(slot, accumulates);
    issue_dk(slot, accumulates);
    accumulates = 1;
    wgmma_wait<0>();
    pin(dV);
    pin(dK);
    pin(P);
    pin(W);
    release(at.dout_empty, slot);
    release(at.q_empty, slot);
    walk.advance();
  }

  // Rows of dV go to memory through V's place, which only this warp group read, rows of dK through K's.
  __device__ __forceinline__ void write(const BackwardItem& item) {
    const int row = group * 64 + warp * 16 + (lane & 15);
    const auto stage = [&](unsigned base, const float* x, int columns, float factor) __attribute__((always_inline)) {
#pragma unroll
      for (int i = 0; i < columns / 16; ++i) {
        const float* y = x + 8 * i;
        store_matrix4(base + row * 128 + (((2 * (i % 4) + (lane >> 4)) ^ (row & 7)) << 4) + (i / 4) * (c.kTileK * 128),
                      pack2<c.dtype>(y[0] * factor, y[1] * factor), pack2<c.dtype>(y[2] * factor, y[3] * factor),
                      pack2<c.dtype>(y[4] * factor, y[5] * factor), pack2<c.dtype>(y[6] * factor, y[7] * factor));
      }
    };
    stage(smem + at.v, dV, c.d_v, 1.f);
    // The reducer has read K for the last time when it has emptied the last slot of dS.
    if (item.steps() > 0) {
      const int last = item.steps() - 1;
      barrier_wait(smem + at.ds_empty + 8 * (last & 1), (last >> 1) & 1);
    }
    stage(smem + at.k, dK, c.d, a.params.scale);
    fence_async_proxy();
    named_sync(1 + group, 128);
    if ((threadIdx.x & 127) == 0) {
      const Request& request = item.request;
      MapPoint to = map_point<Config>(static_cast<int>(request.k_row), static_cast<int>(request.s_k), item.head_k,
                                      a.params.cu_seqlens_k ? 0 : static_cast<int>(request.index), a.batch_rows_k);
      to.row += item.n * c.kTileK + group * 64;
      for (int slab = 0; slab < c.slabs_v(); ++slab) {
        to.column = slab * c.kSlab;
        tma_store(&a.dv, smem + at.v + slab * (c.kTileK * 128) + group * 64 * 128, to);
      }
      for (int slab = 0; slab < c.slabs(); ++slab) {
        to.column = slab * c.kSlab;
        tma_store(&a.dk, smem + at.k + slab * (c.kTileK * 128) + group * 64 * 128, to);
      }
      tma_store_commit();
      tma_store_wait();
    }
  }

  __device__ __forceinline__ void run(const BackwardItem& item) {
    const TileRange seen = item.seen[group];
    const Limits limits = open_keys(item);
    QueryWalk<Config> walk(item.tiles);
    int accumulates = 0;
    const bool sees_all = seen.first == item.tiles.first && seen.last == item.tiles.last;
#pragma unroll 1
    while (walk.step < item.steps()) {
      if (seen.holds(walk.m))
        run_steps(walk, limits, sees_all ? item.steps() : seen.last - seen.first, accumulates);
      else
        skip(walk), walk.advance();
    }
    if (!accumulates) {
#pragma unroll
      for (int i = 0; i < c.d / 2; ++i) dK[i] = 0.f;
#pragma unroll
      for (int i = 0; i < c.d_v / 2; ++i) dV[i] = 0.f;
    }
    write(item);
  }
};

// ---- Reducer ----

template <class Config>
struct BackwardReducer {
  static constexpr Sm90BackwardConfig c = Config::value;
  static constexpr Sm90BackwardLayout at{c};

  const Sm90BackwardArguments& a;
  unsigned smem;
  int lane, warp;
  unsigned k_low, ds_low;

  __device__ __forceinline__ BackwardReducer(const Sm90BackwardArguments& arguments, unsigned shared) : a(arguments), smem(shared) {
    lane = threadIdx.x & 31;
    warp = (threadIdx.x >> 5) & 3;
    k_low = __shfl_sync(0xffffffffu, (smem + at.k) >> 4, 0);
    ds_low = __shfl_sync(0xffffffffu, (smem + at.ds) >> 4, 0);
  }

  // Part of dQ = dS K over the keys of warp groups [begin, end).
  template <int kBegin, int kEnd, int kColumns>
  __device__ __forceinline__ void multiply(float (&dQ)[kColumns / 2], unsigned ds, unsigned k) {
    wgmma_fence();
#pragma unroll
    for (int i = 4 * kBegin; i < 4 * kEnd; ++i) {
      const unsigned from = ds + (i / 4) * (c.tile_q * 128 >> 4) + (i % 4) * 2;
      if (i == 4 * kBegin)
        Wgmma<kColumns>::ss_columns_start(dQ, from, kSwizzledRows, k + i * (2048 >> 4), kSwizzledRows);
      else
        Wgmma<kColumns>::ss_columns(dQ, from, kSwizzledRows, k + i * (2048 >> 4), kSwizzledRows, 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin(dQ);
  }

  // `sums` is where this warp's 16 rows of the part lie: runs of 16 by 8.
  template <int kPart>
  __device__ __forceinline__ void reduce_part(const BackwardTask& task, int m, int slot, float* sums) {
    constexpr int columns = c.part_columns(kPart), slab = kPart % c.slabs(), strip = kPart / c.slabs();
    float dQ[columns / 2];
    const unsigned ds = ds_low + slot * (at.ds_tile >> 4) + strip * (64 * 128 >> 4);
    const unsigned k = k_low + slab * (c.kTileK * 128 >> 4);
    const bool first = task.seen[0].holds(m), second = task.seen[1].holds(m);
    if (first && second)
      multiply<0, 2, columns>(dQ, ds, k);
    else if (first)
      multiply<0, 1, columns>(dQ, ds, k);
    else
      multiply<1, 2, columns>(dQ, ds, k);
    if constexpr (kPart == c.dq_parts() - 1) {
      if (lane == 0) barrier_arrive(smem + at.ds_empty + 8 * slot);
    }
    float* const to = sums + strip * 64 * c.d + slab * (16 * c.kSlab);
    if constexpr (c.stages_dq) {
      // A warp sends its own quarter; two quarters are in flight.
      const unsigned stage = smem + at.dq + (kPart & 1) * at.part + warp * (at.part / 4);
      if (lane == 0) bulk_wait_read<1>();
      __syncwarp();
#pragma unroll
      for (int j = 0; j < columns / 8; ++j)
        store_shared_float4(stage + j * 512 + lane * 16, dQ[4 * j], dQ[4 * j + 1], dQ[4 * j + 2], dQ[4 * j + 3]);
      fence_async_proxy();
      __syncwarp();
      if (lane == 0) {
        bulk_add(to, stage, columns * 64, kEvictLast);
        tma_store_commit();
      }
    } else {
#pragma unroll
      for (int j = 0; j < columns / 8; ++j)
        add_global_float4(to + j * 128 + lane * 4, dQ[4 * j], dQ[4 * j + 1], dQ[4 * j + 2], dQ[4 * j + 3]);
    }
  }

  template <int kPart = 0>
  __device__ __forceinline__ void reduce_parts(const BackwardTask& task, int m, int slot, float* sums) {
    if constexpr (kPart < c.dq_parts()) {
      reduce_part<kPart>(task, m, slot, sums);
      reduce_parts<kPart + 1>(task, m, slot, sums);
    }
  }

  __device__ __forceinline__ void run() {
    const BackwardTask task = get_task(smem + at.task);
    QueryWalk<Config> walk(task.tiles);
    int unused, stat_row;
    load_shared4(smem + at.task + 48, unused, unused, stat_row, unused);
    float* sums = a.params.dq_sums + (task.head * a.params.stat_rows + stat_row + warp * 16) * c.d;
    barrier_wait(smem + at.k_full, 0);
#pragma unroll 1
    for (int left = task.steps(); left > 0; --left) {
      const int slot = walk.slot(), m = walk.m;
      barrier_wait(smem + at.ds_full + 8 * slot, walk.phase());
      reduce_parts(task, m, slot, sums + static_cast<long long>(m) * (c.tile_q * c.d));
      if (walk.advance()) sums += a.params.stat_rows * c.d;
    }
    if (c.stages_dq && lane == 0) tma_store_wait();
  }
};

// ---- Kernel ----

template <class Config>
__device__ __forceinline__ void sm90_backward(const Sm90BackwardArguments& a) {
  constexpr Sm90BackwardConfig c = Config::value;
  constexpr Sm90BackwardLayout at(c);
  static_assert(c.kGroups * c.consumer_registers + c.reducer_registers + c.producer_registers <= 512,
                "setmaxnreg would wait for ever");
  static_assert(c.d % 16 == 0 && c.d_v % 16 == 0 && c.d <= 128 && c.d_v <= 128 && (c.tile_q == 64 || c.tile_q == 128),
                "tiles are whole instructions");
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  const unsigned smem = shared_address(shared_memory);
  const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (threadIdx.x == 0) {
    prefetch_map(&a.q);
    prefetch_map(&a.k);
    prefetch_map(&a.v);
    prefetch_map(&a.dout);
    barrier_init(smem + at.k_full, 1);
    barrier_init(smem + at.v_full, 1);
    for (int i = 0; i < c.kStages; ++i) {
      barrier_init(smem + at.q_full + 8 * i, 1), barrier_init(smem + at.q_empty + 8 * i, 4 * c.kGroups);
      barrier_init(smem + at.dout_full + 8 * i, 1), barrier_init(smem + at.dout_empty + 8 * i, 4 * c.kGroups);
      barrier_init(smem + at.ds_full + 8 * i, 4 * c.kGroups), barrier_init(smem + at.ds_empty + 8 * i, 4);
    }
    barrier_init_fence();
    put_task<Config>(smem + at.task, a, find_item<Config>(a));
  }
  __syncthreads();
  if (group == 0) {
    shrink_registers<c.producer_registers>();
    if (threadIdx.x == 0) produce<Config>(a, smem);
  } else if (group == 3) {
    shrink_registers<c.reducer_registers>();
    BackwardReducer<Config> reducer(a, smem);
    reducer.run();
  } else {
    grow_registers<c.consumer_registers>();
    BackwardConsumer<Config> consumer(a, smem, group - 1);
    consumer.run(find_item<Config>(a));
  }
}

}  // namespace flash_attn::cuda
