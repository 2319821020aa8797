// A Hopper backward warp group's products, and the ways of dS, dQ and gradient rows out of its registers. Both forms of the kernel
// are built on it; the order of things is theirs.
#pragma once

#include "cuda/kernels/ptx/bulk.cuh"
#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/ptx/tma.cuh"
#include "cuda/kernels/ptx/warpgroup.cuh"
#include "cuda/kernels/sm90_bwd_scores.cuh"

namespace flash_attn::cuda {

template <int kColumns>
struct Wgmma;  // m64 n kColumns k16 products, generated with the kernel

// Operands in shared memory: 128-byte swizzle, 1024 bytes between groups of 8 rows.
constexpr unsigned kSwizzledRows = (1u << 30) | (1024 >> 4);

template <class Config>
struct BackwardProducts : BackwardScores<Config> {
  using Scores = BackwardScores<Config>;
  using Scores::a;
  using Scores::A;
  using Scores::at;
  using Scores::c;
  using Scores::group;
  using Scores::kTileQ;
  using Scores::lane;
  using Scores::smem;
  using Scores::warp;
  using Scores::X;

  unsigned k_low, v_low, q_low, dout_low, k_columns_low, ds_low;  // first words of descriptors
  float dQ[c.dq_columns() / 2];
  float* sums;  // where this thread adds dQ of the next step that leaves (without staging)
  int sums_m;

  __device__ __forceinline__ BackwardProducts(const Sm90BackwardArguments& arguments, unsigned shared, int g)
      : Scores(arguments, shared, g) {
    const auto low = [&](int base) { return uniform((smem + base) >> 4); };
    k_low = low(at.k + Scores::group_keys(group) * 128);
    v_low = low(at.v + Scores::group_keys(group) * 128);
    q_low = low(at.q);
    dout_low = low(at.dout);
    k_columns_low = low(at.k + (c.splits_rows() || c.slabs() == 1 ? 0 : group * c.tile_k() * 128));
    ds_low = low(at.ds + (c.splits_rows() ? group * 64 * 128 : 0));
  }

  // X = keys by queries, a product of kDepth columns of K with Q, or of V with dO.
  template <int kDepth>
  __device__ __forceinline__ void issue_scores(unsigned keys, unsigned queries) {
    const unsigned from = uniform(queries);
    wgmma_fence();
    Wgmma<kTileQ>::ss_start(X, keys, kSwizzledRows, from, kSwizzledRows);
#pragma unroll
    for (int i = 1; i < kDepth / 16; ++i)
      Wgmma<kTileQ>::ss(X, keys + (i / 4) * (c.tile_k() * 128 >> 4) + (i % 4) * 2, kSwizzledRows,
                        from + (i / 4) * (kTileQ * 128 >> 4) + (i % 4) * 2, kSwizzledRows, 1);
    wgmma_commit();
  }

  // dV += P^T dO, or dK += dS^T Q: the second operand is read by columns, and 64 columns further lies the next slab.
  template <int kColumns, int kBegin = 0, int kEnd = kTileQ / 16>
  __device__ __forceinline__ void issue_update(float (&sum)[kColumns / 2], unsigned (&weights)[kTileQ / 4], unsigned low) {
    const unsigned from = uniform(low | ((kTileQ * 128 >> 4) << 16));
    pin(sum);
    pin(weights);
    wgmma_fence();
#pragma unroll
    for (int i = kBegin; i < kEnd; ++i)
      Wgmma<kColumns>::rs(sum, weights[4 * i], weights[4 * i + 1], weights[4 * i + 2], weights[4 * i + 3], from + i * (2048 >> 4),
                          kSwizzledRows, 1);
    wgmma_commit();
  }
  template <int kColumns, int kBegin = 0, int kEnd = kTileQ / 16>
  __device__ __forceinline__ void issue_update(float (&sum)[kColumns / 2], unsigned low) {
    issue_update<kColumns, kBegin, kEnd>(sum, A, low);
  }

  // Part `part` of this warp group's share of dQ = dS K of a step: K's columns, or dS's rows. Before the first step it is a product
  // of K, which nobody writes; no branch may lie there.
  __device__ __forceinline__ void issue_dq(int step, int part = 0) {
    const unsigned ds = uniform(c.dq_lag > 0 && step < 0 ? k_low : ds_low + ds_slot(step) * (at.ds_tile >> 4));
    const unsigned k_columns = k_columns_low + part * (c.kGroups * c.tile_k() * 128 >> 4);
    constexpr int columns = c.dq_columns();
    wgmma_fence();
    Wgmma<columns>::ss_columns_start(dQ, ds, kSwizzledRows, k_columns, kSwizzledRows);
#pragma unroll
    for (int i = 1; i < c.tile_k() / 16; ++i)
      Wgmma<columns>::ss_columns(dQ, ds + (i / 4) * (kTileQ * 128 >> 4) + (i % 4) * 2, kSwizzledRows, k_columns + i * (2048 >> 4),
                                 kSwizzledRows, 1);
    wgmma_commit();
  }

  // When all lanes are done with what the slot holds, or have filled it.
  __device__ __forceinline__ void release(unsigned barrier, int slot) {
    __syncwarp();
    if (lane == 0) barrier_arrive(smem + barrier + 8 * slot);
  }

  static __device__ __forceinline__ int ds_slot(int step) { return static_cast<unsigned>(step) % c.ds_stages(); }
  static __device__ __forceinline__ int ds_phase(int step) { return static_cast<unsigned>(step) / c.ds_stages() & 1; }
  __device__ __forceinline__ void await_ds(int step) { barrier_wait(smem + at.ds_full + 8 * ds_slot(step), ds_phase(step)); }
  __device__ __forceinline__ void await_ds_read(int step) { barrier_wait(smem + at.ds_empty + 8 * ds_slot(step), ds_phase(step)); }

  // dS to shared memory, queries as rows, for both warp groups once it is handed over: a fence takes long, less so when what it
  // waits for was written a while ago.
  __device__ __forceinline__ void put_ds(int step) {
    const int matrix = lane >> 3, slot = ds_slot(step);
    const unsigned ds = smem + at.ds + slot * at.ds_tile + Scores::group_keys(group) * (kTileQ * 2) +
                        ((matrix >> 1) * 8 + (lane & 7)) * 128 + (((warp * 2 + (matrix & 1)) ^ (lane & 7)) << 4);
    barrier_wait(smem + at.ds_empty + 8 * slot, ds_phase(step) ^ 1);
#pragma unroll
    for (int i = 0; i < kTileQ / 16; ++i)
      store_matrix4_transposed(ds + i * 2048, A[4 * i], A[4 * i + 1], A[4 * i + 2], A[4 * i + 3]);
  }
  // And dQ of an earlier step, which is staged.
  __device__ __forceinline__ void hand_over(int step) {
    fence_async_proxy();
    release(at.ds_full, ds_slot(step));
    if (c.stages_dq && !c.is_wide() && step > c.dq_lag) release(at.dq_full, group);
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
    constexpr bool backwards = QueryWalk<Config>::kBackwards;
    const TileRange tiles = get_heads(smem + at.task).tiles;
    sums += (backwards ? -1 : 1) * kTileQ * c.d;
    sums_m += backwards ? -1 : 1;
    if (sums_m == (backwards ? tiles.first - 1 : tiles.last)) {
      const int count = tiles.last - tiles.first;
      sums += (a.params.stat_rows + (backwards ? count : -count) * kTileQ) * c.d;
      sums_m = backwards ? tiles.last - 1 : tiles.first;
    }
  }
  // Until the key tiles before this one have added to the sums of sums_m.
  __device__ __forceinline__ void await_turn() const {
    if (lane == 0) await_key_tiles<Config>(smem + at.task, a, a.turns + (sums - a.params.dq_sums) / (kTileQ * c.d), sums_m);
    __syncwarp();
  }

  // Part kPart (of kParts) of a step's dQ, whose product is done, on its way to memory. Staged, it leaves once it is released.
  template <int kPart = 0, int kParts = 1>
  __device__ __forceinline__ void store_dq(int step) {
    if constexpr (kPart == kParts - 1) release(at.ds_empty, ds_slot(step));
    constexpr int runs = c.dq_columns() / 8;
    if constexpr (c.stages_dq) {
      const unsigned stage = smem + at.dq + group * at.part + warp * (at.part / 4) + lane * 16;
      barrier_wait(smem + at.dq_empty + 8 * group, ((step * kParts + kPart) & 1) ^ 1);
#pragma unroll
      for (int j = 0; j < runs; ++j) store_shared_float4(stage + j * 512, dQ[4 * j], dQ[4 * j + 1], dQ[4 * j + 2], dQ[4 * j + 3]);
    } else {
      constexpr int first = kPart * c.kGroups * c.kSlab;  // column, beside the warp group's first
      const int valid = c.splits_rows() ? runs : min(runs, (c.d - first - group * c.kSlab) / 8);
      if constexpr (c.is_deterministic && kPart == 0) await_turn();
#pragma unroll
      for (int j = 0; j < runs; ++j)
        if (c.d % c.kSlab == 0 || c.d < c.kSlab || j < valid)
          add_global_float4(sums + first * 16 + j * 128, dQ[4 * j], dQ[4 * j + 1], dQ[4 * j + 2], dQ[4 * j + 3]);
      if constexpr (kPart == kParts - 1) {
        advance_sums();
        if constexpr (c.is_deterministic) {
          barrier_wait(smem + at.dq_empty + 8 * group, (step & 1) ^ 1);
          release(at.dq_full, group);  // a carrier ends the turn
        }
      }
    }
  }

  // When no dS is about to be handed over, with which it could leave.
  __device__ __forceinline__ void release_dq() {
    if constexpr (!c.stages_dq) return;
    fence_async_proxy();
    release(at.dq_full, group);
  }

  // Gradient rows of the warp group's keys, in shared memory as a map's boxes lie there.
  template <int kColumns>
  __device__ __forceinline__ void stage_rows(unsigned base, const float (&x)[kColumns / 2], float factor) {
    const int row = Scores::group_keys(group) + warp * 16 + (lane & 15);
#pragma unroll
    for (int i = 0; i < kColumns / 16; ++i) {
      const float* y = x + 8 * i;
      store_matrix4(base + row * 128 + (((2 * (i % 4) + (lane >> 4)) ^ (row & 7)) << 4) + (i / 4) * (c.tile_k() * 128),
                    pack2<c.dtype>(y[0] * factor, y[1] * factor), pack2<c.dtype>(y[2] * factor, y[3] * factor),
                    pack2<c.dtype>(y[4] * factor, y[5] * factor), pack2<c.dtype>(y[6] * factor, y[7] * factor));
    }
  }

  // And from there to memory. One thread calls it.
  template <int kColumns>
  __device__ __forceinline__ void store_rows(const TensorMap* map, unsigned base) {
    MapPoint to = key_point<Config>(smem + at.task);
    to.row += Scores::group_keys(group);
    for (int column = 0; column < kColumns; column += c.kSlab) {
      to.column = column;
      tma_store(map, base + (Scores::group_keys(group) + column / c.kSlab * c.tile_k()) * 128, to);
    }
  }

  // What the warp group has staged of dV where V was, of dK where K was.
  __device__ __forceinline__ void store_staged() {
    fence_async_proxy();
    named_sync(1 + group, 128);
    if ((threadIdx.x & 127) == 0) {
      store_rows<c.d_v>(&a.dv, smem + at.v);
      store_rows<c.d>(&a.dk, smem + at.k);
      tma_store_commit();
      tma_store_wait();
    }
  }
};

}  // namespace flash_attn::cuda
