// What moves a Hopper backward block's data: the loader brings K and V once, and Q, dO and their rows' statistics every step; the
// carriers take to memory what the consumers have staged of dQ. Barriers as in sm90_bwd.cuh. Knows nothing of the products.
#pragma once

#include "cuda/kernels/ptx/bulk.cuh"
#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/ptx/order.cuh"
#include "cuda/kernels/ptx/tma.cuh"
#include "cuda/kernels/sm90_bwd_schedule.cuh"

namespace flash_attn::cuda {

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
    load_tile<c.slabs(), c.tile_k()>(smem + at.k, &a.k, smem + at.k_full, key_point<Config>(smem + at.task), kEvictFirst);
  }
  __device__ __forceinline__ void load_values() {
    barrier_arrive_expect(smem + at.v_full, at.v_tile);
    load_tile<c.slabs_v(), c.tile_k()>(smem + at.v, &a.v, smem + at.v_full, key_point<Config>(smem + at.task), kEvictFirst);
  }

  // The next query tile, when its slot is free.
  __device__ __forceinline__ void load_queries() {
    const int slot = walk.slot(), dout_slot = walk.dout_slot();
    MapPoint rows = query_point<Config>(smem + at.task, head);
    rows.row += walk.m * c.tile_q;
    const long long stats = head * a.params.stat_rows + get_stat_row(smem + at.task) + walk.m * c.tile_q;
    barrier_wait(smem + at.q_empty + 8 * slot, walk.phase() ^ 1);
    barrier_arrive_expect(smem + at.q_full + 8 * slot, at.q_tile + c.tile_q * 4);
    load_tile<c.slabs(), c.tile_q>(smem + at.q + slot * at.q_tile, &a.q, smem + at.q_full + 8 * slot, rows, kEvictLast);
    bulk_load(smem + at.lse + slot * c.tile_q * 4, a.params.row_lse2 + stats, c.tile_q * 4, smem + at.q_full + 8 * slot);
    if (walk.step == 0) load_values();
    barrier_wait(smem + at.dout_empty + 8 * dout_slot, walk.dout_phase() ^ 1);
    barrier_arrive_expect(smem + at.dout_full + 8 * dout_slot, at.dout_tile + c.tile_q * 4);
    load_tile<c.slabs_v(), c.tile_q>(smem + at.dout + dout_slot * at.dout_tile, &a.dout, smem + at.dout_full + 8 * dout_slot, rows,
                                     kEvictLast);
    bulk_load(smem + at.delta + dout_slot * c.tile_q * 4, a.params.row_delta + stats, c.tile_q * 4,
              smem + at.dout_full + 8 * dout_slot);
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

// ---- Carriers ----

// Adds what a consumer warp group has staged of dQ to the sums in memory, and ends its turns at them where order counts. One warp;
// a consumer warp's quarter lies in one piece there.
template <class Config>
struct BackwardCarrier {
  static constexpr Sm90BackwardConfig c = Config::value;
  static constexpr Sm90BackwardLayout at{c};

  const Sm90BackwardArguments& a;
  unsigned smem;
  int group, lane;

  // Part `part` of the walk's tile of `head`, which is staged; the last one ends the turn. Addresses are made anew each time: this
  // warp has hardly any registers.
  __device__ __forceinline__ void carry(int m, int head, int part) const {
    const unsigned task = smem + at.task;
    const int column = c.splits_rows() ? 0 : (group + part * c.kGroups) * c.kSlab, row = c.splits_rows() ? group * 64 : 0;
    const long long first = head * a.params.stat_rows + get_stat_row(task) + m * c.tile_q;
    unsigned* const turn = a.turns + first / c.tile_q;
    if (c.is_deterministic && part == 0) {
      if (lane == 0) await_key_tiles<Config>(task, a, turn, m);
      __syncwarp();
    }
    if (lane < 4) {
      bulk_add(a.params.dq_sums + (first + row + lane * 16) * c.d + column * 16,
               smem + at.dq + group * at.part + lane * (at.part / 4), min(c.dq_columns(), c.d - column) * 64, kEvictLast);
      tma_store_commit();
      tma_store_wait_read();
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(smem + at.dq_empty + 8 * group);
    if (!c.is_deterministic || part + 1 < c.dq_slabs(group)) return;
    // The staged part's place is free before its additions are visible.
    if (lane < 4) {
      tma_store_wait();
      fence_device();
    }
    __syncwarp();
    if (lane == 0) add_release(turn, 1);
  }

  // What the consumers have added themselves ends its turn here: the fence takes long.
  __device__ __forceinline__ void end_turn(int m, int head) const {
    if (lane != 0) return;
    barrier_arrive(smem + at.dq_empty + 8 * group);
    fence_device();
    add_release(a.turns + (head * a.params.stat_rows + get_stat_row(smem + at.task)) / c.tile_q + m, 1);
  }

  __device__ __forceinline__ void run() {
    const TaskHeads heads = get_heads(smem + at.task);
    const int parts = c.stages_dq ? c.dq_slabs(group) : min(c.dq_slabs(group), 1), count = heads.steps() * parts;
    int head = heads.first, part = 0;
    QueryWalk<Config> walk(smem + at.task);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      barrier_wait(smem + at.dq_full + 8 * group, i & 1);
      if constexpr (c.stages_dq)
        carry(walk.m, head, part);
      else
        end_turn(walk.m, head);
      if (++part < parts) continue;
      part = 0;
      if (walk.advance(smem + at.task)) ++head;
    }
    if (c.stages_dq && lane < 4) tma_store_wait();
  }
};

}  // namespace flash_attn::cuda
