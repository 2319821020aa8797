// The Hopper backward of k and v alone, for d and d_v up to 128, where dQ is another kernel's (sm90_bwd_queries.cuh): a block owns
// 128 keys, 64 for each consumer warp group, which share nothing but what is loaded.
#pragma once

#include "cuda/kernels/sm90_bwd_products.cuh"

namespace flash_attn::cuda {

template <class Config>
struct BackwardApartConsumer : BackwardProducts<Config> {
  using Products = BackwardProducts<Config>;
  using Products::a;
  using Products::A;
  using Products::at;
  using Products::c;
  using Products::kTileQ;
  using Products::smem;
  using Products::X;

  float dK[c.d / 2], dV[c.d_v / 2];
  unsigned B[kTileQ / 4];  // dS^T, while the product for dV reads P^T in A

  __device__ __forceinline__ BackwardApartConsumer(const Sm90BackwardArguments& arguments, unsigned shared, int g)
      : Products(arguments, shared, g) {}

  __device__ __forceinline__ void issue_scores(int slot) {
    pin(B);
    Products::template issue_scores<c.d>(Products::k_low, Products::q_low + slot * (at.q_tile >> 4));
  }
  __device__ __forceinline__ void issue_weight_gradients(int slot) {
    pin(A);
    Products::template issue_scores<c.d_v>(Products::v_low, Products::dout_low + slot * (at.dout_tile >> 4));
  }

  // Two products are always in flight beside what a warp group computes: dK of the step before beneath the softmax, dV beneath dS.
  // Past the last step the scores are of whatever lies there, so that no branch stands between a product and its wait.
  __device__ __forceinline__ void run_steps(QueryWalk<Config>& walk, int steps) {
    const unsigned lse = smem + at.lse + (Products::lane & 3) * 8;
    int slot = 0, before = 0;
    barrier_wait(smem + at.k_full, 0);
    barrier_wait(smem + at.q_full, 0);
    issue_scores(0);
    barrier_wait(smem + at.v_full, 0);
    wgmma_wait<0>();
    pin(X);
#pragma unroll 1
    for (int left = steps; left > 0; --left) {
      const int dout_slot = walk.dout_slot(), row = walk.m * kTileQ;
      const unsigned stats = lse + slot * (kTileQ * 4), deltas = lse + (at.delta - at.lse) + dout_slot * (kTileQ * 4);
      Products::weigh(row, stats);
      barrier_wait(smem + at.dout_full + 8 * dout_slot, walk.dout_phase());
      issue_weight_gradients(dout_slot);
      Products::template issue_update<c.d_v>(dV, A, Products::dout_low + dout_slot * (at.dout_tile >> 4));
      wgmma_wait<1>();
      pin(X);
      pin(dK);
      pin(B);
      if (left < steps) Products::release(at.q_empty, before);
      Products::differentiate(row, stats, deltas, B);
      before = slot;
      bool opens = false;
      if (left > 1) {
        opens = walk.advance(smem + at.task);
        slot = walk.slot();
        barrier_wait(smem + at.q_full + 8 * slot, walk.phase());
      }
      issue_scores(slot);
      Products::template issue_update<c.d>(dK, B, Products::q_low + before * (at.q_tile >> 4));
      wgmma_wait<1>();
      pin(X);
      pin(dV);
      pin(A);
      Products::release(at.dout_empty, dout_slot);
      if (opens) Products::open_head(walk);
    }
    wgmma_wait<0>();
    pin(dK);
    pin(B);
  }

  // Rows of dV go to memory through V's place, rows of dK through K's: only this warp group reads them.
  __device__ __forceinline__ void write() {
    Products::template stage_rows<c.d_v>(smem + at.v, dV, 1.f);
    Products::template stage_rows<c.d>(smem + at.k, dK, a.params.scale);
    Products::store_staged();
  }

  __device__ __forceinline__ void run() {
    const unsigned task = smem + at.task;
    Products::open_keys(find_item<Config>(a));
#pragma unroll
    for (int i = 0; i < c.d / 2; ++i) dK[i] = 0.f;
#pragma unroll
    for (int i = 0; i < c.d_v / 2; ++i) dV[i] = 0.f;
    const int steps = get_heads(task).steps();
    if (steps > 0) {
      QueryWalk<Config> walk(task);
      Products::open_head(walk);
      run_steps(walk, steps);
    }
    write();
  }
};

}  // namespace flash_attn::cuda
