// The Hopper backward for d and d_v up to 128: a block owns 128 keys, 64 for each consumer warp group, which keeps dK and dV of its
// keys and makes half of the block's dQ.
//
// Barriers beside those that sm90_bwd.cuh names (counts in brackets): ds_full, ds_empty[ds_stages] one arrival a consumer warp.
#pragma once

#include "cuda/kernels/sm90_bwd_products.cuh"

namespace flash_attn::cuda {

template <class Config>
struct BackwardConsumer : BackwardProducts<Config> {
  using Products = BackwardProducts<Config>;
  using Products::a;
  using Products::A;
  using Products::at;
  using Products::c;
  using Products::dQ;
  using Products::group;
  using Products::kTileQ;
  using Products::smem;
  using Products::X;

  float dK[c.d / 2], dV[c.d_v / 2];

  __device__ __forceinline__ BackwardConsumer(const Sm90BackwardArguments& arguments, unsigned shared, int g)
      : Products(arguments, shared, g) {}

  // S^T of the slot's queries, and dP^T likewise.
  __device__ __forceinline__ void issue_scores(int slot) {
    Products::template issue_scores<c.d>(Products::k_low, Products::q_low + slot * (at.q_tile >> 4));
  }
  __device__ __forceinline__ void issue_weight_gradients(int slot) {
    pin(A);
    Products::template issue_scores<c.d_v>(Products::v_low, Products::dout_low + slot * (at.dout_tile >> 4));
  }
  __device__ __forceinline__ void issue_dv(int slot) {
    Products::template issue_update<c.d_v>(dV, Products::dout_low + slot * (at.dout_tile >> 4));
  }
  __device__ __forceinline__ void issue_dk(int slot) {
    Products::template issue_update<c.d>(dK, Products::q_low + slot * (at.q_tile >> 4));
  }
  __device__ __forceinline__ void pin_sums() {
    pin(dK);
    pin(dV);
    pin(A);
  }

  // With dropout, where this thread leaves its weights for itself.
  __device__ __forceinline__ unsigned own_weights() const { return smem + at.p + group * at.p_tile + (threadIdx.x & 127) * 16; }

  // The steps, one after the other. X serves S and dP in turn, A serves P and dS. Two times a step products are waited for: dP and
  // dV behind the softmax, dK and the next S behind dS. While they run, dQ of an earlier step is staged, and is handed over with
  // dS; the product for dQ runs beneath the softmax.
  __device__ __forceinline__ void run_steps(QueryWalk<Config>& walk, int steps) {
    const unsigned lse = smem + at.lse + (Products::lane & 3) * 8;
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
      const int dout_slot = walk.dout_slot(), row = walk.m * kTileQ;
      const unsigned stats = lse + slot * (kTileQ * 4);
      Products::weigh(row, stats);
      if constexpr (c.has_dropout) Products::put_weights(own_weights(), row);
      barrier_wait(smem + at.dout_full + 8 * dout_slot, walk.dout_phase());
      issue_weight_gradients(dout_slot);
      issue_dv(dout_slot);
      wgmma_wait<2>();
      pin(dQ);
      if (step > c.dq_lag) Products::store_dq(step - 1 - c.dq_lag);
      wgmma_wait<0>();
      pin(X);
      pin_sums();
      const unsigned deltas = lse + (at.delta - at.lse) + dout_slot * (kTileQ * 4);
      if constexpr (c.has_dropout)
        Products::differentiate_with(own_weights(), row, stats, deltas);
      else
        Products::differentiate(row, stats, deltas);
      Products::release(at.dout_empty, dout_slot);
      Products::put_ds(step);
      // The last step leaves here: with the exit between a product's start and its wait ptxas would serialise.
      if (step == steps - 1) break;
      issue_dk(slot);
      const int done = slot;
      const bool opens = walk.advance(smem + at.task);
      slot = walk.slot();
      barrier_wait(smem + at.q_full + 8 * slot, walk.phase());
      issue_scores(slot);
      Products::hand_over(step);
      if (opens) Products::open_head(walk);
      // Before there is a dS so far back, the product is of no use and never stored.
      const int behind = step - c.dq_lag;
      if (behind >= 0) Products::await_ds(behind);
      Products::issue_dq(behind);
      wgmma_wait<1>();
      pin(X);
      pin_sums();
      Products::release(at.q_empty, done);
    }
    issue_dk(slot);
    Products::hand_over(steps - 1);
    wgmma_wait<0>();
    pin_sums();
#pragma unroll 1
    for (int behind = max(steps - 1 - c.dq_lag, 0); behind < steps; ++behind) {
      Products::await_ds(behind);
      Products::issue_dq(behind);
      wgmma_wait<0>();
      pin(dQ);
      Products::store_dq(behind);
      Products::release_dq();
    }
  }

  // Rows of dV go to memory through V's place, which only this warp group read, rows of dK through K's.
  __device__ __forceinline__ void write(int steps) {
    Products::template stage_rows<c.d_v>(smem + at.v, dV, a.params.keep_scale);
    // The other warp group reads all of K until its last product for dQ.
    if (steps > 0) Products::await_ds_read(steps - 1);
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
      if constexpr (!c.stages_dq) Products::open_sums();
      run_steps(walk, steps);
    }
    write(steps);
  }
};

}  // namespace flash_attn::cuda
