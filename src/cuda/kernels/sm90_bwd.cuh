// Attention backward on Hopper (sm_90a): a block owns 128 keys and walks over the query tiles that see them; dK and dV stay in
// registers, dQ leaves every step as an addition to sums in memory.
//
//   warp groups 1, 2  consumers, 64 keys each: S^T = K Q^T and dP^T = V dO^T have keys as rows, so that P^T and dS^T, still in
//                     registers, are the first operands of dV += P^T dO and dK += dS^T Q. dS goes to shared memory, too, and each
//                     makes its half of dQ = dS K of all 128 keys
//   warp group 0      warp 0 loads K and V once, and Q, dO and their rows' statistics every step; warps 1 and 2 carry what the
//                     consumers have staged of dQ to memory
//
// Barriers (all mbarriers; counts in brackets): k_full, v_full tx; q_full, dout_full[2] tx, q_empty, dout_empty[2] one arrival a
// consumer warp; ds_full, ds_empty[ds_stages] one a consumer warp; dq_full[2] one a warp of the group, dq_empty[2] 1.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/bulk.cuh"
#include "cuda/kernels/ptx/convert.cuh"
#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/ptx/order.cuh"
#include "cuda/kernels/ptx/reduce.cuh"
#include "cuda/kernels/ptx/special.cuh"
#include "cuda/kernels/ptx/tma.cuh"
#include "cuda/kernels/ptx/warpgroup.cuh"
#include "cuda/kernels/sm90_bwd_schedule.cuh"

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

// Brings what the consumers read. One thread calls it.
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
    if (walk.advance(smem + at.task)) ++head;
  }

  __device__ __forceinline__ void run() {
    const int steps = get_heads(smem + at.task).steps();
    if (steps == 0) return;
    load_keys();
#pragma unroll 1
    for (int i = 0; i < steps; ++i) load_queries();
  }
};

// ---- Consumers ----

template <class Config>
struct BackwardConsumer {
  static constexpr Sm90BackwardConfig c = Config::value;
  static constexpr Sm90BackwardLayout at{c};
  static constexpr int kTileQ = c.tile_q;

  const Sm90BackwardArguments& a;
  unsigned smem;
  int group, lane, warp;
  unsigned k_low, v_low, q_low, dout_low, k_columns_low, ds_low;
  float dK[c.d / 2], dV[c.d_v / 2];
  float X[kTileQ / 2];     // S^T, then P^T; dP^T
  unsigned A[kTileQ / 4];  // P^T rounded, then dS^T
  float dQ[c.dq_columns() / 2];
  float* sums;  // where this thread adds dQ of the next step that leaves (without staging)
  int sums_m;

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
    k_columns_low = low(at.k + (c.splits_rows() || c.slabs() == 1 ? 0 : group * c.kTileK * 128));
    ds_low = low(at.ds + (c.splits_rows() ? group * 64 * 128 : 0));
  }

  // S^T of the slot's queries, and dP^T likewise: keys by queries.
  __device__ __forceinline__ void issue_scores(int slot) {
    const unsigned q = uniform(q_low + slot * (at.q_tile >> 4));
    wgmma_fence();
    Wgmma<kTileQ>::ss_start(X, k_low, kSwizzledRows, q, kSwizzledRows);
#pragma unroll
    for (int i = 1; i < c.d / 16; ++i)
      Wgmma<kTileQ>::ss(X, k_low + (i / 4) * (c.kTileK * 128 >> 4) + (i % 4) * 2, kSwizzledRows,
                        q + (i / 4) * (kTileQ * 128 >> 4) + (i % 4) * 2, kSwizzledRows, 1);
    wgmma_commit();
  }
  __device__ __forceinline__ void issue_weight_gradients(int slot) {
    const unsigned dout = uniform(dout_low + slot * (at.dout_tile >> 4));
    pin(A);
    wgmma_fence();
    Wgmma<kTileQ>::ss_start(X, v_low, kSwizzledRows, dout, kSwizzledRows);
#pragma unroll
    for (int i = 1; i < c.d_v / 16; ++i)
      Wgmma<kTileQ>::ss(X, v_low + (i / 4) * (c.kTileK * 128 >> 4) + (i % 4) * 2, kSwizzledRows,
                        dout + (i / 4) * (kTileQ * 128 >> 4) + (i % 4) * 2, kSwizzledRows, 1);
    wgmma_commit();
  }

  // dV += P^T dO, or dK += dS^T Q: the second operand is read by columns, and 64 columns further lies the next slab.
  template <int kColumns>
  __device__ __forceinline__ void issue_update(float (&sum)[kColumns / 2], unsigned low) {
    const unsigned from = uniform(low | ((kTileQ * 128 >> 4) << 16));
    pin(sum);
    pin(A);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kTileQ / 16; ++i)
      Wgmma<kColumns>::rs(sum, A[4 * i], A[4 * i + 1], A[4 * i + 2], A[4 * i + 3], from + i * (2048 >> 4), kSwizzledRows, 1);
    wgmma_commit();
  }
  __device__ __forceinline__ void issue_dv(int slot) { issue_update<c.d_v>(dV, dout_low + slot * (at.dout_tile >> 4)); }
  __device__ __forceinline__ void issue_dk(int slot) { issue_update<c.d>(dK, q_low + slot * (at.q_tile >> 4)); }

  // This warp group's share of dQ = dS K: K's columns, or dS's rows.
  __device__ __forceinline__ void issue_dq(int ds_slot) {
    const unsigned ds = uniform(ds_low + ds_slot * (at.ds_tile >> 4));
    constexpr int columns = c.dq_columns();
    wgmma_fence();
    Wgmma<columns>::ss_columns_start(dQ, ds, kSwizzledRows, k_columns_low, kSwizzledRows);
#pragma unroll
    for (int i = 1; i < c.kTileK / 16; ++i)
      Wgmma<columns>::ss_columns(dQ, ds + (i / 4) * (kTileQ * 128 >> 4) + (i % 4) * 2, kSwizzledRows,
                                 k_columns_low + i * (2048 >> 4), kSwizzledRows, 1);
    wgmma_commit();
  }
  __device__ __forceinline__ void pin_sums() {
    pin(dK);
    pin(dV);
    pin(A);
  }

  // When all lanes are done with what the slot holds.
  __device__ __forceinline__ void release(unsigned barrier, int slot) {
    __syncwarp();
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
      const int head = heads.first + walk.step / (heads.tiles.last - heads.tiles.first), batch = load_shared_int2(task + 32).x;
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
    Limits limits{first + 63 < s_k ? 0 : 1 << 30, static_cast<int>(s_q)};
    if constexpr (c.mask != KeyMask::none) {
      if (first + 63 < s_k) limits.clear_first = static_cast<int>(query_interval(item.request.rule, s_q, first + 63).lo);
      if constexpr (c.mask == KeyMask::interval)
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

  // P of the scores in X, rounded to A. `row` is the tile's first query.
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
          float& x = X[4 * j + 2 * r + e];
          float top = e ? l.y : l.x;
          if constexpr (c.has_alibi) top += bias(alibi, r, 8 * j + e);
          if constexpr (c.has_softcap) x = tanh_fast(x * a.scale_over_cap);
          x = exp2_fast(fmaf(x, c.has_softcap ? a.cap_log2 : a.scale_log2, -top));
        }
      }
    }
    if (row < limits.clear_first || (c.mask == KeyMask::interval && row + kTileQ > limits.clear_last)) hide(row);
#pragma unroll
    for (int i = 0; i < kTileQ / 4; ++i) A[i] = pack2<c.dtype>(X[2 * i], X[2 * i + 1]);
  }

  // With softcap, dS has 1 - t^2 as a factor, t = tanh(scale S / cap): found again in P, so that no register has to keep it.
  __device__ __forceinline__ float slope_of_cap(float weight, float top) const {
    const float t = fmaxf(log2_fast(weight) + top, -a.cap_log2) * a.inverse_cap_log2;
    return fmaf(-t, t, 1.f);
  }

  // dS = P (dP - delta) with dP in X, rounded, in the place of P.
  __device__ __forceinline__ void differentiate(int row, unsigned lse) {
    float2 alibi = make_float2(0, 0);
    if constexpr (c.has_alibi && c.has_softcap) alibi = load_shared_float2(own_alibi()), alibi.x += static_cast<float>(row);
#pragma unroll
    for (int j = 0; j < kTileQ / 8; ++j) {
      const float2 delta = load_shared_float2(lse + (at.delta - at.lse) + j * 32);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 weight = unpack2<c.dtype>(A[2 * j + r]);
        float low = weight.x * (X[4 * j + 2 * r] - delta.x), high = weight.y * (X[4 * j + 2 * r + 1] - delta.y);
        if constexpr (c.has_softcap) {
          float2 top = load_shared_float2(lse + j * 32);
          if constexpr (c.has_alibi) top.x += bias(alibi, r, 8 * j), top.y += bias(alibi, r, 8 * j + 1);
          low *= slope_of_cap(weight.x, top.x);
          high *= slope_of_cap(weight.y, top.y);
        }
        A[2 * j + r] = pack2<c.dtype>(low, high);
      }
    }
  }

  static __device__ __forceinline__ int ds_slot(int step) { return static_cast<unsigned>(step) % c.ds_stages(); }
  static __device__ __forceinline__ int ds_phase(int step) { return static_cast<unsigned>(step) / c.ds_stages() & 1; }

  // dS to shared memory, queries as rows.
  __device__ __forceinline__ void hand_over(int step) {
    const int matrix = lane >> 3, slot = ds_slot(step);
    const unsigned ds = smem + at.ds + slot * at.ds_tile + group * (kTileQ * 128) + ((matrix >> 1) * 8 + (lane & 7)) * 128 +
                        (((warp * 2 + (matrix & 1)) ^ (lane & 7)) << 4);
    barrier_wait(smem + at.ds_empty + 8 * slot, ds_phase(step) ^ 1);
#pragma unroll
    for (int i = 0; i < kTileQ / 16; ++i)
      store_matrix4_transposed(ds + i * 2048, A[4 * i], A[4 * i + 1], A[4 * i + 2], A[4 * i + 3]);
    fence_async_proxy();
    release(at.ds_full, slot);
  }

  __device__ __forceinline__ void open_sums() {
    const unsigned task = smem + at.task;
    const TaskHeads heads = get_heads(task);
    sums_m = QueryWalk<Config>::first_tile(heads);
    const int column = c.splits_rows() ? 0 : group * c.kSlab, row = (c.splits_rows() ? group * 64 : 0) + warp * 16;
    sums = a.params.dq_sums + (heads.first * a.params.stat_rows + get_stat_row(task) + row + sums_m * kTileQ) * c.d + column * 16 +
           lane * 4;
  }
  __device__ __forceinline__ void advance_sums() {
    const TileRange tiles = get_heads(smem + at.task).tiles;
    sums += kTileQ * c.d;
    if (++sums_m == tiles.last) {
      sums += (a.params.stat_rows - (tiles.last - tiles.first) * kTileQ) * c.d;
      sums_m = tiles.first;
    }
  }

  // dQ of a step, whose product is done, on its way to memory.
  __device__ __forceinline__ void store_dq(int step) {
    release(at.ds_empty, ds_slot(step));
    constexpr int runs = c.dq_columns() / 8;
    if constexpr (c.stages_dq) {
      const unsigned stage = smem + at.dq + group * at.part + warp * (at.part / 4) + lane * 16;
      barrier_wait(smem + at.dq_empty + 8 * group, (step & 1) ^ 1);
#pragma unroll
      for (int j = 0; j < runs; ++j) store_shared_float4(stage + j * 512, dQ[4 * j], dQ[4 * j + 1], dQ[4 * j + 2], dQ[4 * j + 3]);
      fence_async_proxy();
      release(at.dq_full, group);
    } else {
      const int valid = c.splits_rows() ? runs : min(runs, (c.d - group * c.kSlab) / 8);
#pragma unroll
      for (int j = 0; j < runs; ++j)
        if (c.d % c.kSlab == 0 || c.d < c.kSlab || j < valid)
          add_global_float4(sums + j * 128, dQ[4 * j], dQ[4 * j + 1], dQ[4 * j + 2], dQ[4 * j + 3]);
      advance_sums();
    }
  }

  // The steps, one after the other. X serves S and dP in turn, A serves P and dS. Two times a step products are waited for: dP and
  // dV behind the softmax, dK and the next S behind dS. While they run, dQ of the step before leaves, and dS is handed over; the
  // product for dQ runs beneath the softmax.
  __device__ __forceinline__ void run_steps(QueryWalk<Config>& walk, const Limits& limits, int steps) {
    const unsigned lse = smem + at.lse + (lane & 3) * 8;
    int slot = 0;
    barrier_wait(smem + at.k_full, 0);
    barrier_wait(smem + at.q_full, 0);
    issue_scores(0);
    barrier_wait(smem + at.v_full, 0);
    wgmma_wait<0>();
    pin(X);
#pragma unroll 1
    while (true) {
      const int step = walk.step;
      const unsigned stats = lse + slot * (kTileQ * 4);
      weigh(limits, walk.m * kTileQ, stats);
      barrier_wait(smem + at.dout_full + 8 * slot, walk.phase());
      issue_weight_gradients(slot);
      issue_dv(slot);
      wgmma_wait<2>();
      pin(dQ);
      if (step > c.dq_lag) store_dq(step - 1 - c.dq_lag);
      wgmma_wait<0>();
      pin(X);
      pin_sums();
      differentiate(walk.m * kTileQ, stats);
      release(at.dout_empty, slot);
      // The last step leaves here: with the exit between a product's start and its wait ptxas would serialise.
      if (step == steps - 1) break;
      issue_dk(slot);
      const int done = slot;
      const bool opens = walk.advance(smem + at.task);
      slot = walk.slot();
      barrier_wait(smem + at.q_full + 8 * slot, walk.phase());
      issue_scores(slot);
      hand_over(step);
      if (opens) open_head(walk);
      // Before there is a dS so far back, the product is of nothing and never stored.
      const int behind = step - c.dq_lag;
      if (behind >= 0) barrier_wait(smem + at.ds_full + 8 * ds_slot(behind), ds_phase(behind));
      issue_dq(ds_slot(behind < 0 ? 0 : behind));
      wgmma_wait<1>();
      pin(X);
      pin_sums();
      release(at.q_empty, done);
    }
    issue_dk(slot);
    hand_over(steps - 1);
    wgmma_wait<0>();
    pin_sums();
#pragma unroll 1
    for (int behind = max(steps - 1 - c.dq_lag, 0); behind < steps; ++behind) {
      barrier_wait(smem + at.ds_full + 8 * ds_slot(behind), ds_phase(behind));
      issue_dq(ds_slot(behind));
      wgmma_wait<0>();
      pin(dQ);
      store_dq(behind);
    }
  }

  // Rows of dV go to memory through V's place, which only this warp group read, rows of dK through K's.
  __device__ __forceinline__ void write(int steps) {
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
    // The other warp group reads all of K until its last product for dQ.
    const unsigned task = smem + at.task;
    if (steps > 0) barrier_wait(smem + at.ds_empty + 8 * ds_slot(steps - 1), ds_phase(steps - 1));
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
    if (steps > 0) {
      QueryWalk<Config> walk(task);
      open_head(walk);
      if constexpr (!c.stages_dq) open_sums();
      run_steps(walk, limits, steps);
    }
    write(steps);
  }
};

// ---- Carriers ----

// Adds what a consumer warp group has staged of dQ to the sums in memory. One warp; a consumer warp's quarter lies in one piece
// there.
template <class Config>
struct BackwardCarrier {
  static constexpr Sm90BackwardConfig c = Config::value;
  static constexpr Sm90BackwardLayout at{c};

  const Sm90BackwardArguments& a;
  unsigned smem;
  int group, lane;

  // Sums of a query tile are added to in the order of the key tiles: its counter moves by one for each warp group that has added.
  __device__ __forceinline__ void await_turn(const unsigned* turn, int m) const {
    if (lane == 0) {
      const unsigned task = smem + at.task;
      const unsigned before = 2 * (get_key_tile(task) - first_key_tile<Config>(task, a, m));
      while (load_acquire(turn) < before) {
      }
    }
    __syncwarp();
  }

  __device__ __forceinline__ void run() {
    const unsigned task = smem + at.task;
    const int steps = get_heads(task).steps();
    QueryWalk<Config> walk(task);
    const long long tiles = a.params.stat_rows / c.tile_q;
    const int column = c.splits_rows() ? 0 : group * c.kSlab, row = (c.splits_rows() ? group * 64 : 0) + lane * 16;
    float* sums = a.params.dq_sums + (get_heads(task).first * a.params.stat_rows + get_stat_row(task) + row) * c.d + column * 16;
    unsigned* turns = a.turns + get_heads(task).first * tiles + get_stat_row(task) / c.tile_q;
    const unsigned bytes = min(c.dq_columns(), c.d - column) * 64;
#pragma unroll 1
    for (int i = 0; i < steps; ++i) {
      const int m = walk.m;
      barrier_wait(smem + at.dq_full + 8 * group, i & 1);
      if constexpr (c.is_deterministic) await_turn(turns + m, m);
      if (lane < 4) {
        bulk_add(sums + static_cast<long long>(m) * (c.tile_q * c.d), smem + at.dq + group * at.part + lane * (at.part / 4), bytes,
                 kEvictLast);
        tma_store_commit();
        if constexpr (c.is_deterministic) {
          tma_store_wait();
          fence_device();
        } else {
          tma_store_wait_read();
        }
      }
      __syncwarp();
      if (lane == 0) {
        barrier_arrive(smem + at.dq_empty + 8 * group);
        if constexpr (c.is_deterministic) add_release(turns + m, 1);
      }
      if (walk.advance(task)) sums += a.params.stat_rows * c.d, turns += tiles;
    }
    if (lane < 4) tma_store_wait();
  }
};

// ---- Kernel ----

template <class Config>
__device__ __forceinline__ void sm90_backward(const Sm90BackwardArguments& a) {
  constexpr Sm90BackwardConfig c = Config::value;
  constexpr Sm90BackwardLayout at(c);
  constexpr int launch_registers = 65536 / c.kThreads / 8 * 8;
  static_assert(c.kGroups * c.consumer_registers + c.producer_registers <= launch_registers * (c.kGroups + 1),
                "setmaxnreg would wait for ever");
  static_assert(c.d % 16 == 0 && c.d_v % 16 == 0 && c.d <= 128 && c.d_v <= 128 && (c.tile_q == 64 || c.tile_q == 128),
                "tiles are whole instructions");
  static_assert(c.splits_rows() == (c.d <= c.kSlab), "each warp group has its own share of dq");
  static_assert(c.stages_dq || !c.is_deterministic, "only carriers wait for their turn");
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
    }
    for (int i = 0; i < c.ds_stages(); ++i)
      barrier_init(smem + at.ds_full + 8 * i, 4 * c.kGroups), barrier_init(smem + at.ds_empty + 8 * i, 4 * c.kGroups);
    for (int i = 0; i < c.kGroups; ++i) barrier_init(smem + at.dq_full + 8 * i, 4), barrier_init(smem + at.dq_empty + 8 * i, 1);
    barrier_init_fence();
    put_task<Config>(smem + at.task, a, find_item<Config>(a));
  }
  __syncthreads();
  if (c.has_lengths && !has_keys(smem + at.task)) return;
  if (group == 0) {
    shrink_registers<c.producer_registers>();
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    if (threadIdx.x == 0) {
      BackwardLoader<Config> loader(a, smem);
      loader.run();
    } else if (c.stages_dq && (warp == 1 || warp == 2)) {
      BackwardCarrier<Config> carrier{a, smem, warp - 1, static_cast<int>(threadIdx.x & 31)};
      carrier.run();
    }
  } else {
    grow_registers<c.consumer_registers>();
    BackwardConsumer<Config> consumer(a, smem, group - 1);
    consumer.run();
  }
}

}  // namespace flash_attn::cuda
