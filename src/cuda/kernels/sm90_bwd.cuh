// Attention backward on Hopper (sm_90a): a block owns 128 keys and walks over the query tiles that see them; dK and dV stay in
// registers, dQ leaves every step as an addition to sums in memory.
//
//   warp groups 1, 2  consumers, 64 keys each: S^T = K Q^T and dP^T = V dO^T have keys as rows, so that P^T and dS^T, still in
//                     registers, are the first operands of dV += P^T dO and dK += dS^T Q; dS goes to shared memory
//   warp group 0      reducer: dQ = dS K of all 128 keys, added to memory while the consumers go on; one of its threads loads K and
//                     V once, and Q, dO and their rows' statistics for the step after the next
//
// Barriers (all mbarriers; counts in brackets): k_full, v_full tx; q_full, dout_full[2] tx, q_empty, dout_empty[2] one arrival a
// consumer warp; ds_full[2] one a consumer warp, ds_empty[2] one a reducer warp. A warp group has nothing to compute for a tile
// whose queries see none of its keys, but it takes part in the tile's barriers.
#pragma once

#include "ptx/async_copy.cuh"
#include "ptx/bulk.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/order.cuh"
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

// ---- Loads ----

template <int kSlabs, int kRows>
__device__ __forceinline__ void load_tile(unsigned target, const TensorMap* map, unsigned full, MapPoint from,
                                          unsigned long long policy) {
#pragma unroll
  for (int slab = 0; slab < kSlabs; ++slab) {
    from.column = slab * Sm90BackwardConfig::kSlab;
    tma_load(target + slab * kRows * 128, map, full, from, policy);
  }
}

// Brings what consumers and reducer read. One thread calls it.
template <class Config>
struct BackwardLoader {
  static constexpr Sm90BackwardConfig c = Config::value;
  static constexpr Sm90BackwardLayout at{c};

  const Sm90BackwardArguments& a;
  unsigned smem;
  QueryWalk<Config> walk;
  int head;

  __device__ __forceinline__ BackwardLoader(const Sm90BackwardArguments& arguments, unsigned shared)
      : a(arguments), smem(shared), walk(shared + at.task), head(get_heads(shared + at.task).first) {}

  __device__ __forceinline__ void load_keys() {
    barrier_arrive_expect(smem + at.k_full, at.k_tile);
    load_tile<c.slabs(), c.kTileK>(smem + at.k, &a.k, smem + at.k_full, key_point<Config>(smem + at.task), kEvictFirst);
  }
  __device__ __forceinline__ void load_values() {
    barrier_arrive_expect(smem + at.v_full, at.v_tile);
    load_tile<c.slabs_v(), c.kTileK>(smem + at.v, &a.v, smem + at.v_full, key_point<Config>(smem + at.task), kEvictFirst);
  }

  // The next query tile, when its slot is free.
  __device__ __forceinline__ void load_queries() {
    const int slot = walk.slot(), phase = walk.phase();
    MapPoint rows = query_point<Config>(smem + at.task, head);
    rows.row += walk.m * c.tile_q;
    const long long stats = head * a.params.stat_rows + get_stat_row(smem + at.task) + walk.m * c.tile_q;
    barrier_wait(smem + at.q_empty + 8 * slot, phase ^ 1);
    barrier_arrive_expect(smem + at.q_full + 8 * slot, at.q_tile + c.tile_q * 4);
    load_tile<c.slabs(), c.tile_q>(smem + at.q + slot * at.q_tile, &a.q, smem + at.q_full + 8 * slot, rows, kEvictLast);
    bulk_load(smem + at.lse + slot * c.tile_q * 4, a.params.row_lse2 + stats, c.tile_q * 4, smem + at.q_full + 8 * slot);
    if (walk.step == 0) load_values();
    barrier_wait(smem + at.dout_empty + 8 * slot, phase ^ 1);
    barrier_arrive_expect(smem + at.dout_full + 8 * slot, at.dout_tile + c.tile_q * 4);
    load_tile<c.slabs_v(), c.tile_q>(smem + at.dout + slot * at.dout_tile, &a.dout, smem + at.dout_full + 8 * slot, rows,
                                     kEvictLast);
    bulk_load(smem + at.delta + slot * c.tile_q * 4, a.params.row_delta + stats, c.tile_q * 4, smem + at.dout_full + 8 * slot);
    if (walk.advance()) ++head;
  }
};

// ---- Consumers ----

template <class Config>
struct BackwardConsumer {
  static constexpr Sm90BackwardConfig c = Config::value;
  static constexpr Sm90BackwardLayout at{c};
  static constexpr int kTileQ = c.tile_q;
  static constexpr int kParts = c.splits_dp ? 2 : 1, kPartQ = kTileQ / kParts;  // of dP

  const Sm90BackwardArguments& a;
  unsigned smem;
  int group, lane, warp;
  unsigned k_low, v_low, q_low, dout_low;
  float dK[c.d / 2], dV[c.d_v / 2], S[kTileQ / 2], T[kPartQ / 2];
  unsigned P[kTileQ / 4], W[kTileQ / 4];

  // What the warp group's keys see. A thread's own limits lie in shared memory: few steps need them, and registers are dear.
  struct Limits {
    int clear_first, clear_last;  // queries that see all keys
  };

  __device__ __forceinline__ BackwardConsumer(const Sm90BackwardArguments& arguments, unsigned shared, int g)
      : a(arguments), smem(forget(shared)), group(g) {
    lane = threadIdx.x & 31;
    warp = (threadIdx.x >> 5) & 3;
    const auto low = [&](int base) { return uniform((smem + base) >> 4); };
    k_low = low(at.k + group * 64 * 128);
    v_low = low(at.v + group * 64 * 128);
    q_low = low(at.q);
    dout_low = low(at.dout);
  }

  // S^T of the slot's queries, and dP^T likewise: keys by queries.
  __device__ __forceinline__ void issue_scores(int slot) {
    const unsigned q = uniform(q_low + slot * (at.q_tile >> 4));
    wgmma_fence();
    Wgmma<kTileQ>::ss_start(S, k_low, kSwizzledRows, q, kSwizzledRows);
#pragma unroll
    for (int i = 1; i < c.d / 16; ++i)
      Wgmma<kTileQ>::ss(S, k_low + (i / 4) * (c.kTileK * 128 >> 4) + (i % 4) * 2, kSwizzledRows,
                        q + (i / 4) * (kTileQ * 128 >> 4) + (i % 4) * 2, kSwizzledRows, 1);
    wgmma_commit();
  }
  __device__ __forceinline__ void issue_weight_gradients(int slot, int part) {
    const unsigned dout = uniform(dout_low + slot * (at.dout_tile >> 4) + part * (kPartQ * 128 >> 4));
    wgmma_fence();
    Wgmma<kPartQ>::ss_start(T, v_low, kSwizzledRows, dout, kSwizzledRows);
#pragma unroll
    for (int i = 1; i < c.d_v / 16; ++i)
      Wgmma<kPartQ>::ss(T, v_low + (i / 4) * (c.kTileK * 128 >> 4) + (i % 4) * 2, kSwizzledRows,
                        dout + (i / 4) * (kTileQ * 128 >> 4) + (i % 4) * 2, kSwizzledRows, 1);
    wgmma_commit();
  }

  // dV += P^T dO and dK += dS^T Q, the second operands read by columns: 64 columns further lies the next slab.
  __device__ __forceinline__ void issue_dv(int slot) {
    const unsigned dout = uniform((dout_low | ((kTileQ * 128 >> 4) << 16)) + slot * (at.dout_tile >> 4));
    pin(dV);
    pin(P);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kTileQ / 16; ++i)
      Wgmma<c.d_v>::rs(dV, P[4 * i], P[4 * i + 1], P[4 * i + 2], P[4 * i + 3], dout + i * (2048 >> 4), kSwizzledRows, 1);
    wgmma_commit();
  }
  __device__ __forceinline__ void issue_dk(int slot) {
    const unsigned q = uniform((q_low | ((kTileQ * 128 >> 4) << 16)) + slot * (at.q_tile >> 4));
    pin(dK);
    pin(W);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kTileQ / 16; ++i)
      Wgmma<c.d>::rs(dK, W[4 * i], W[4 * i + 1], W[4 * i + 2], W[4 * i + 3], q + i * (2048 >> 4), kSwizzledRows, 1);
    wgmma_commit();
  }

  __device__ __forceinline__ void release(unsigned barrier, int slot) {
    if (lane == 0) barrier_arrive(smem + barrier + 8 * slot);
  }

  // Limits of a thread's keys (r and r + 8 of its warp's 16), in queries counted from its first column: lo, lo, hi, hi.
  __device__ __forceinline__ unsigned own_limits() const { return smem + at.limits + (threadIdx.x - 128) * 16; }

  // ALiBi: what a column's distance counts from, and the head's slope in the log2 domain.
  __device__ __forceinline__ unsigned own_alibi() const { return smem + at.alibi + (threadIdx.x - 128) * 8; }

  __device__ __forceinline__ void open_head(const QueryWalk<Config>& walk) {
    if constexpr (c.has_alibi) {
      const unsigned task = smem + at.task;
      const TaskHeads heads = get_heads(task);
      const int head = heads.first + walk.step / (heads.tiles.last - heads.tiles.first), batch = load_shared_int2(task + 48).x;
      store_shared_float(own_alibi() + 4, a.params.alibi[batch * a.params.alibi_batch_stride + head] * 1.4426950408889634f);
    }
  }

  __device__ __forceinline__ Limits open_keys(const BackwardItem& item) {
    const int first = item.n * c.kTileK + group * 64, s_k = static_cast<int>(item.request.s_k);
    const int first_column = 2 * (lane & 3);
    const long long s_q = item.request.s_q;
    int lo[2], hi[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int key = first + warp * 16 + lane / 4 + 8 * r;
      lo[r] = -8, hi[r] = key < s_k ? 1 << 30 : -8;
      if constexpr (c.mask != Sm90Mask::none) {
        const QueryInterval queries = query_interval(item.request.rule, s_q, key);
        lo[r] = static_cast<int>(queries.lo) - first_column;
        hi[r] = static_cast<int>(queries.hi) - first_column;
      }
      if (c.mask == Sm90Mask::right && key >= s_k) lo[r] = 1 << 30;
    }
    store_shared4(own_limits(), lo[0], lo[1], hi[0], hi[1]);
    if constexpr (c.has_alibi) {
      const long long diagonal = clamp_to(item.request.rule.delta, -kFarAway, kFarAway);
      store_shared_float(own_alibi(),
                         static_cast<float>(static_cast<int>(diagonal) + first_column - (first + warp * 16 + lane / 4)));
    }
    Limits limits{first + 63 < s_k ? 0 : 1 << 30, static_cast<int>(s_q)};
    if constexpr (c.mask != Sm90Mask::none) {
      if (first + 63 < s_k) limits.clear_first = static_cast<int>(query_interval(item.request.rule, s_q, first + 63).lo);
      if constexpr (c.mask == Sm90Mask::interval)
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
          if constexpr (c.mask != Sm90Mask::none) is_hidden = column < lo[r] - row;
          if constexpr (c.mask != Sm90Mask::right) is_hidden = is_hidden || column >= hi[r] - row;
          if (is_hidden) S[4 * j + 2 * r + e] = 0.f;
        }
      }
    }
  }

  // How much ALiBi takes from the score of key r (0, 1), column x: distances count from the tile's first query.
  __device__ __forceinline__ float bias(float2 alibi, int r, int x) const {
    return alibi.y * fabsf(alibi.x + static_cast<float>(x - 8 * r));
  }

  // P of the scores in S. `row` is the tile's first query.
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
          float& x = S[4 * j + 2 * r + e];
          float top = e ? l.y : l.x;
          if constexpr (c.has_alibi) top += bias(alibi, r, 8 * j + e);
          if constexpr (c.has_softcap) x = tanh_fast(x * a.scale_over_cap);
          x = exp2_fast(fmaf(x, c.has_softcap ? a.cap_log2 : a.scale_log2, -top));
        }
      }
    }
    if (row < limits.clear_first || (c.mask == Sm90Mask::interval && row + kTileQ > limits.clear_last)) hide(row);
  }

  // With softcap, dS has 1 - t^2 as a factor, t = tanh(scale S / cap): found again in P, so that no register has to keep it.
  __device__ __forceinline__ float slope_of_cap(float weight, float top) const {
    const float t = fmaxf(log2_fast(weight) + top, -a.cap_log2) * a.inverse_cap_log2;
    return fmaf(-t, t, 1.f);
  }

  // P and dS = P (dP - delta) of the queries whose dP is in T, rounded.
  template <int kPart>
  __device__ __forceinline__ void differentiate(int row, unsigned lse) {
    float2 alibi = make_float2(0, 0);
    if constexpr (c.has_alibi && c.has_softcap) alibi = load_shared_float2(own_alibi()), alibi.x += static_cast<float>(row);
#pragma unroll
    for (int n = 0; n < kPartQ / 8; ++n) {
      const int j = kPart * (kPartQ / 8) + n;
      const float2 delta = load_shared_float2(lse + (at.delta - at.lse) + j * 32);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int x = 4 * j + 2 * r, y = 4 * n + 2 * r;
        float low = S[x] * (T[y] - delta.x), high = S[x + 1] * (T[y + 1] - delta.y);
        if constexpr (c.has_softcap) {
          float2 top = load_shared_float2(lse + j * 32);
          if constexpr (c.has_alibi) top.x += bias(alibi, r, 8 * j), top.y += bias(alibi, r, 8 * j + 1);
          low *= slope_of_cap(S[x], top.x);
          high *= slope_of_cap(S[x + 1], top.y);
        }
        P[2 * j + r] = pack2<c.dtype>(S[x], S[x + 1]);
        W[2 * j + r] = pack2<c.dtype>(low, high);
      }
    }
  }

  // dS of those queries to shared memory, queries as rows.
  template <int kPart>
  __device__ __forceinline__ void store_part(unsigned ds) {
#pragma unroll
    for (int i = kPart * (kPartQ / 16); i < (kPart + 1) * (kPartQ / 16); ++i)
      store_matrix4_transposed(ds + i * 2048, W[4 * i], W[4 * i + 1], W[4 * i + 2], W[4 * i + 3]);
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
  __device__ __forceinline__ void run_steps(QueryWalk<Config>& walk, const Limits& limits, int steps) {
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
      issue_weight_gradients(slot, 0);
      wgmma_wait<1>();
      pin(S);
      const unsigned stats = lse + slot * (kTileQ * 4);
      weigh(limits, walk.m * kTileQ, stats);
      wgmma_wait<0>();
      pin(T);
      differentiate<0>(walk.m * kTileQ, stats);
      if constexpr (kParts == 2) issue_weight_gradients(slot, 1);
      barrier_wait(smem + at.ds_empty + 8 * slot, phase ^ 1);
      store_part<0>(ds + slot * at.ds_tile);
      if constexpr (kParts == 2) {
        wgmma_wait<0>();
        pin(T);
        differentiate<1>(walk.m * kTileQ, stats);
        store_part<1>(ds + slot * at.ds_tile);
      }
      fence_async_proxy();
      __syncwarp();
      release(at.ds_full, slot);
      // The last step leaves here: with the exit between a product's start and its wait ptxas would serialise.
      if (walk.step == last) break;
      issue_dv(slot);
      issue_dk(slot);
      const int done = slot;
      if (walk.advance()) open_head(walk);
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
    issue_dv(slot);
    issue_dk(slot);
    wgmma_wait<0>();
    pin(dV);
    pin(dK);
    pin(P);
    pin(W);
    release(at.dout_empty, slot);
    release(at.q_empty, slot);
    if (walk.advance()) open_head(walk);
  }

  // Rows of dV go to memory through V's place, which only this warp group read, rows of dK through K's.
  __device__ __forceinline__ void write() {
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
    const unsigned task = smem + at.task;
    const int steps = get_heads(task).steps();
    if (steps > 0) {
      const int last = steps - 1;
      barrier_wait(smem + at.ds_empty + 8 * (last & 1), (last >> 1) & 1);
    }
    stage(smem + at.k, dK, c.d, a.params.scale);
    fence_async_proxy();
    named_sync(1 + group, 128);
    if ((threadIdx.x & 127) == 0) {
      MapPoint to = key_point<Config>(task);
      to.row += group * 64;
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

  __device__ __forceinline__ void run() {
    const unsigned task = smem + at.task;
    const Limits limits = open_keys(find_item<Config>(a));
#pragma unroll
    for (int i = 0; i < c.d / 2; ++i) dK[i] = 0.f;
#pragma unroll
    for (int i = 0; i < c.d_v / 2; ++i) dV[i] = 0.f;
    const int steps = get_heads(task).steps();
    QueryWalk<Config> walk(task);
    if (steps > 0) open_head(walk);
#pragma unroll 1
    while (walk.step < steps) {
      const TileRange tiles = get_heads(task).tiles, seen = get_seen(task, group);
      if (!seen.holds(walk.m)) {
        skip(walk);
        if (walk.advance()) open_head(walk);
      } else {
        const bool sees_all = seen.first == tiles.first && seen.last == tiles.last;
        run_steps(walk, limits, sees_all ? steps : seen.last - seen.first);
      }
    }
    write();
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
  static constexpr int kChunks = (c.d + c.dq_columns - 1) / c.dq_columns;

  __device__ __forceinline__ BackwardReducer(const Sm90BackwardArguments& arguments, unsigned shared)
      : a(arguments), smem(forget(shared)) {
    lane = threadIdx.x & 31;
    warp = (threadIdx.x >> 5) & 3;
    k_low = uniform((smem + at.k) >> 4);
    ds_low = uniform((smem + at.ds) >> 4);
  }

  // 64 rows of dQ = dS K, over 16 * kSteps keys.
  template <int kSteps, int kColumns>
  __device__ __forceinline__ void multiply(float (&dQ)[kColumns / 2], unsigned ds, unsigned k) {
    wgmma_fence();
    Wgmma<kColumns>::ss_columns_start(dQ, ds, kSwizzledRows, k, kSwizzledRows);
#pragma unroll
    for (int i = 1; i < kSteps; ++i)
      Wgmma<kColumns>::ss_columns(dQ, ds + (i / 4) * (c.tile_q * 128 >> 4) + (i % 4) * 2, kSwizzledRows, k + i * (2048 >> 4),
                                  kSwizzledRows, 1);
    wgmma_commit();
    wgmma_wait<0>();
    pin(dQ);
  }

  // Rows 64 * strip and on, columns dq_columns * chunk and on, of the step's dQ. `sums` is where this warp's 16 rows of the first
  // strip lie, in runs of 16 by 8.
  template <int kColumns>
  __device__ __forceinline__ void reduce_part(int slot, int strip, int chunk, float* sums, bool sees_first, bool sees_second) {
    float dQ[kColumns / 2];
    unsigned ds = uniform(ds_low + slot * (at.ds_tile >> 4) + strip * (64 * 128 >> 4));
    const int column = chunk * c.dq_columns;
    unsigned k = uniform(k_low + column / c.kSlab * (c.kTileK * 128 >> 4) + column % c.kSlab * 2 / 16);
    if (sees_first && sees_second) {
      multiply<8, kColumns>(dQ, ds, k);
    } else {
      // One warp group's keys: the other has left its half of dS as it was.
      ds = uniform(sees_first ? ds : ds + (c.tile_q * 128 >> 4));
      k = uniform(sees_first ? k : k + 4 * (2048 >> 4));
      multiply<4, kColumns>(dQ, ds, k);
    }
    if (strip == c.tile_q / 64 - 1 && column + kColumns == c.d && lane == 0) barrier_arrive(smem + at.ds_empty + 8 * slot);
    float* const to = sums + strip * 64 * c.d + column * 16;
    if constexpr (c.stages_dq) {
      // A warp sends its own quarter; two quarters are in flight.
      const unsigned stage = smem + at.dq + ((strip * kChunks + chunk) & 1) * at.part + warp * (at.part / 4);
      if (lane == 0) bulk_wait_read<1>();
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j)
        store_shared_float4(stage + j * 512 + lane * 16, dQ[4 * j], dQ[4 * j + 1], dQ[4 * j + 2], dQ[4 * j + 3]);
      fence_async_proxy();
      __syncwarp();
      if (lane == 0) {
        bulk_add(to, stage, kColumns * 64, kEvictLast);
        tma_store_commit();
      }
    } else {
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j)
        add_global_float4(to + j * 128 + lane * 4, dQ[4 * j], dQ[4 * j + 1], dQ[4 * j + 2], dQ[4 * j + 3]);
    }
  }

  // Sums of a query tile are added to in the order of the key tiles. Its counter moves by one for each warp that has added.
  __device__ __forceinline__ void await_turn(const unsigned* turn, int m) const {
    if constexpr (c.is_deterministic) {
      if (lane == 0) {
        const unsigned before = 4 * (key_tile() - first_key_tile<Config>(smem + at.task, a, m));
        while (load_acquire(turn) < before) {
        }
      }
      __syncwarp();
    }
  }
  __device__ __forceinline__ void end_turn(unsigned* turn) const {
    if constexpr (c.is_deterministic) {
      if (c.stages_dq) {
        if (lane == 0) tma_store_wait();
      } else {
        __threadfence();
      }
      __syncwarp();
      if (lane == 0) add_release(turn, 1);
    }
  }
  __device__ __forceinline__ unsigned key_tile() const { return load_shared_int2(smem + at.task + 56).y; }

  __device__ __forceinline__ void reduce_step(const QueryWalk<Config>& walk, float* sums, unsigned* turns) {
    const int slot = walk.slot();
    const unsigned task = smem + at.task;
    const bool sees_first = get_seen(task, 0).holds(walk.m), sees_second = get_seen(task, 1).holds(walk.m);
    sums += static_cast<long long>(walk.m) * (c.tile_q * c.d);
    barrier_wait(smem + at.ds_full + 8 * slot, walk.phase());
    await_turn(turns + walk.m, walk.m);
    constexpr int whole = c.d / c.dq_columns, rest = c.d % c.dq_columns;
#pragma unroll 1
    for (int strip = 0; strip < c.tile_q / 64; ++strip) {
      if constexpr (whole > 0) {
#pragma unroll 1
        for (int chunk = 0; chunk < whole; ++chunk) reduce_part<c.dq_columns>(slot, strip, chunk, sums, sees_first, sees_second);
      }
      if constexpr (rest > 0) reduce_part<rest>(slot, strip, whole, sums, sees_first, sees_second);
    }
    end_turn(turns + walk.m);
  }

  // One thread loads the tiles of a step; when it finds their slot free, dQ of the step two before can be made.
  __device__ __forceinline__ void run() {
    constexpr int ahead = c.kStages;
    const unsigned task = smem + at.task;
    const int steps = get_heads(task).steps();
    if (steps == 0) return;
    BackwardLoader<Config> loader(a, smem);
    if (threadIdx.x == 0) loader.load_keys();
    QueryWalk<Config> walk(task);
    float* sums = a.params.dq_sums + (get_heads(task).first * a.params.stat_rows + get_stat_row(task) + warp * 16) * c.d;
    const long long tiles = a.params.stat_rows / c.tile_q;
    unsigned* turns = a.turns + get_heads(task).first * tiles + get_stat_row(task) / c.tile_q;
    barrier_wait(smem + at.k_full, 0);
#pragma unroll 1
    for (int i = 0; i < steps + ahead; ++i) {
      if (threadIdx.x == 0 && i < steps) loader.load_queries();
      __syncwarp();
      if (i < ahead) continue;
      reduce_step(walk, sums, turns);
      if (walk.advance()) sums += a.params.stat_rows * c.d, turns += tiles;
    }
    if (c.stages_dq && lane == 0) tma_store_wait();
  }
};

// ---- Kernel ----

template <class Config>
__device__ __forceinline__ void sm90_backward(const Sm90BackwardArguments& a) {
  constexpr Sm90BackwardConfig c = Config::value;
  constexpr Sm90BackwardLayout at(c);
  constexpr int launch_registers = 65536 / c.kThreads / 8 * 8;
  static_assert(c.kGroups * c.consumer_registers + c.reducer_registers <= launch_registers * (c.kGroups + 1),
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
  if (c.has_lengths && !has_keys(smem + at.task)) return;
  if (group == 0) {
    shrink_registers<c.reducer_registers>();
    BackwardReducer<Config> reducer(a, smem);
    reducer.run();
  } else {
    grow_registers<c.consumer_registers>();
    BackwardConsumer<Config> consumer(a, smem, group - 1);
    consumer.run();
  }
}

}  // namespace flash_attn::cuda
