// Attention backward on Hopper (sm_90a): a block owns a tile of keys and walks over the query tiles that see them; dK and dV stay
// in registers, dQ leaves every step as an addition to sums in memory.
//
//   warp groups 1, 2  consumers: S^T = K Q^T and dP^T = V dO^T have keys as rows, so that P^T and dS^T, still in registers, are the
//                     first operands of dV += P^T dO and dK += dS^T Q. dS goes to shared memory, too, for dQ = dS K. Up to 128
//                     columns each has 64 keys of its own (sm90_bwd_narrow.cuh), beyond that dK is one's and dV the other's
//                     (sm90_bwd_wide.cuh)
//   warp group 0      warp 0 loads K and V once, and Q, dO and their rows' statistics every step; warps 1 and 2 carry what the
//                     consumers have staged of dQ to memory, or end their turns there (sm90_bwd_copies.cuh)
//
// Barriers (all mbarriers; counts in brackets): k_full, v_full tx; q_full[2], dout_full[dout_stages] tx, q_empty, dout_empty one
// arrival a consumer warp; dq_full[2] one a warp of the group, dq_empty[2] 1. The forms' files have those of dS and P.
#pragma once

#include "cuda/kernels/sm90_bwd_copies.cuh"
#include "cuda/kernels/sm90_bwd_narrow.cuh"
#include "cuda/kernels/sm90_bwd_wide.cuh"
#include "cuda/kernels/tile/scores.cuh"

namespace flash_attn::cuda {

template <class Config>
__device__ __forceinline__ void sm90_backward(const Sm90BackwardArguments& a) {
  constexpr Sm90BackwardConfig c = Config::value;
  constexpr Sm90BackwardLayout at(c);
  constexpr int launch_registers = 65536 / c.kThreads / 8 * 8;
  static_assert(c.kGroups * c.consumer_registers + c.producer_registers <= launch_registers * (c.kGroups + 1),
                "setmaxnreg would wait for ever");
  static_assert(c.d % 16 == 0 && c.d_v % 16 == 0 && c.d <= 256 && c.d_v <= 256 && (c.tile_q == 64 || c.tile_q == 128),
                "tiles are whole instructions");
  static_assert(c.splits_rows() == (c.d <= c.kSlab && !c.is_wide()), "each warp group has its own share of dq");
  static_assert(c.dq_lag == 0 || !c.is_wide(), "wide heads have no room for it");
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
    }
    for (int i = 0; i < c.dout_stages; ++i) {
      barrier_init(smem + at.dout_full + 8 * i, 1), barrier_init(smem + at.dout_empty + 8 * i, 4 * c.kGroups);
    }
    for (int i = 0; i < c.ds_stages(); ++i)
      barrier_init(smem + at.ds_full + 8 * i, c.is_wide() ? 4 : 4 * c.kGroups),
          barrier_init(smem + at.ds_empty + 8 * i, 4 * c.dq_groups());
    barrier_init(smem + at.p_full, 4);
    for (int i = 0; i < c.kGroups; ++i) barrier_init(smem + at.dq_full + 8 * i, 4), barrier_init(smem + at.dq_empty + 8 * i, 1);
    barrier_init_fence();
    put_task<Config>(smem + at.task, a, find_item<Config>(a));
    if constexpr (c.has_dropout) {
      const DropoutKey key = dropout_key_of(a.params);
      store_shared_int2(smem + at.dropout, static_cast<int>(key.key0), static_cast<int>(key.key1));
    }
  }
  __syncthreads();
  if (c.has_lengths && !has_keys<Config>(smem + at.task)) return;
  if (group == 0) {
    shrink_registers<c.producer_registers>();
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
    if (threadIdx.x == 0) {
      BackwardLoader<Config> loader(a, smem);
      loader.run();
    } else if ((c.stages_dq || c.is_deterministic) && (warp == 1 || warp == 2)) {
      BackwardCarrier<Config> carrier{a, smem, warp - 1, static_cast<int>(threadIdx.x & 31)};
      carrier.run();
    }
  } else {
    grow_registers<c.consumer_registers>();
    if constexpr (!c.is_wide()) {
      BackwardConsumer<Config> consumer(a, smem, group - 1);
      consumer.run();
    } else if (group == 1) {
      BackwardWideConsumer<Config, WideRole::values> consumer(a, smem);
      consumer.run();
    } else {
      BackwardWideConsumer<Config, WideRole::keys> consumer(a, smem);
      consumer.run();
    }
  }
}

}  // namespace flash_attn::cuda
