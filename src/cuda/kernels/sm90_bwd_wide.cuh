// The Hopper backward for heads of more than 128 columns: a block owns 64 keys, and its consumer warp groups do different things
// with the same keys, since one thread cannot hold both dK and dV.
//
//   values  S^T = K Q^T, P^T of it, dV += P^T dO. P^T, rounded, goes to shared memory for the other warp group.
//   keys    dP^T = V dO^T, dS^T with the P^T that it finds there, dK += dS^T Q. dS goes to shared memory.
//   both    every second slab of 64 columns of dQ = dS K, one after the other in the same registers
//
// Barriers beside those that sm90_bwd.cuh names (counts in brackets). Slots are filled in the order of the steps:
//   p_full[1]           values' 4 warps; keys waits before it reads P
//   ds_full[2]          keys' 4 warps; both wait before a product for dQ, and by it values knows that P of that step is read
//   ds_empty[2]         4 warps of each that makes dQ, after its last product with dS; keys waits before it fills the slot again
// q_empty has arrivals of values (S is done and lse read) and of keys (dK is done), dout_empty of keys (dP is done, delta read) and
// of values (dV is done).
//
// Why nobody waits for ever, or writes what is still read: let values have come to step i.
// 1. P's slot: in step i - 1 it has waited for dS of step i - 1, which is made when P of that step has been read.
// 2. dS's slot: it last held step i - 2; both released that in their steps i - 1, before keys can see P of step i.
// 3. Besides tiles, values waits in step i for dS of step i, and that wants P of no later step.
// 4. Tiles: the loader brings Q of step j, then dout of step j. Q's place is free when dK of step j - 2 is done, and on the way
//    there keys waits for dout of step j - 1, which comes before. dout's place, if it is the only one, is free when dV and dP of
//    step j - 1 are done, and on the way there values waits for Q of step j, which comes before, and for dS of step j - 1 at most.
#pragma once

#include "cuda/kernels/sm90_bwd_products.cuh"

namespace flash_attn::cuda {

enum class WideRole : int { values, keys };

template <class Config, WideRole kRole>
struct BackwardWideConsumer : BackwardProducts<Config> {
  using Products = BackwardProducts<Config>;
  using Products::a;
  using Products::A;
  using Products::at;
  using Products::c;
  using Products::dQ;
  using Products::group;
  using Products::kTileQ;
  using Products::lane;
  using Products::smem;
  using Products::X;

  static constexpr bool kIsValues = kRole == WideRole::values;
  static constexpr int kColumns = kIsValues ? c.d_v : c.d;
  static constexpr int kParts = c.dq_slabs(static_cast<int>(kRole));  // of dQ

  float sum[kColumns / 2];  // dV or dK

  __device__ __forceinline__ BackwardWideConsumer(const Sm90BackwardArguments& arguments, unsigned shared)
      : Products(arguments, shared, static_cast<int>(kRole)) {}

  __device__ __forceinline__ void await_queries(const QueryWalk<Config>& walk) {
    barrier_wait(smem + at.q_full + 8 * walk.slot(), walk.phase());
  }
  __device__ __forceinline__ void await_dout(const QueryWalk<Config>& walk) {
    barrier_wait(smem + at.dout_full + 8 * walk.dout_slot(), walk.dout_phase());
  }

  // S^T or dP^T of the walk's tile.
  __device__ __forceinline__ void issue_scores(const QueryWalk<Config>& walk) {
    if constexpr (kIsValues) {
      await_queries(walk);
      Products::template issue_scores<c.d>(Products::k_low, Products::q_low + walk.slot() * (at.q_tile >> 4));
    } else {
      await_dout(walk);
      Products::template issue_scores<c.d_v>(Products::v_low, Products::dout_low + walk.dout_slot() * (at.dout_tile >> 4));
    }
  }

  // dV or dK: of queries 16 kBegin to 16 kEnd of the tile.
  template <int kBegin = 0, int kEnd = kTileQ / 16>
  __device__ __forceinline__ void issue_update(const QueryWalk<Config>& walk) {
    if constexpr (kIsValues) {
      if (kBegin == 0) await_dout(walk);
      Products::template issue_update<kColumns, kBegin, kEnd>(sum, Products::dout_low + walk.dout_slot() * (at.dout_tile >> 4));
    } else {
      if (kBegin == 0) await_queries(walk);
      Products::template issue_update<kColumns, kBegin, kEnd>(sum, Products::q_low + walk.slot() * (at.q_tile >> 4));
    }
  }

  // Where a thread of one warp group leaves P for that of the other with the same keys.
  __device__ __forceinline__ unsigned p_words() const { return smem + at.p + (threadIdx.x & 127) * 16; }

  // From X to A, the update's first operand, and to the other warp group.
  __device__ __forceinline__ void make_operand(const QueryWalk<Config>& walk) {
    const unsigned lse = smem + at.lse + (lane & 3) * 8 + walk.slot() * (kTileQ * 4);
    const int row = walk.m * kTileQ;
    if constexpr (kIsValues) {
      Products::weigh(row, lse);
      Products::release(at.q_empty, walk.slot());
      Products::put_weights(p_words(), row);
      Products::release(at.p_full, 0);
    } else {
      if constexpr (c.has_softcap) await_queries(walk);
      barrier_wait(smem + at.p_full, walk.step & 1);
      Products::differentiate_with(p_words(), row, lse, smem + at.delta + (lane & 3) * 8 + walk.dout_slot() * (kTileQ * 4));
      Products::release(at.dout_empty, walk.dout_slot());
      Products::put_ds(walk.step);
    }
  }

  template <int kPart>
  __device__ __forceinline__ void store_dq(int step) {
    Products::template store_dq<kPart, kParts>(step);
    Products::release_dq();
  }

  __device__ __forceinline__ void pin_sum() {
    pin(sum);
    pin(A);
  }

  // The steps, one after the other. The last part of dQ runs beneath what makes the operand, and leaves beneath the update; other
  // parts run with the update and the next scores, and leave beneath these.
  __device__ __forceinline__ void run_steps(QueryWalk<Config>& walk, int steps) {
    barrier_wait(smem + at.k_full, 0);
    if constexpr (!kIsValues) barrier_wait(smem + at.v_full, 0);
    issue_scores(walk);
    wgmma_wait<0>();
    pin(X);
#pragma unroll 1
    while (true) {
      const int step = walk.step, done = kIsValues ? walk.dout_slot() : walk.slot();
      make_operand(walk);
      wgmma_wait<0>();
      pin(dQ);
      // The last step leaves here: with the exit between a product's start and its wait ptxas would serialise.
      if (step == steps - 1) break;
      constexpr int kFirst = kParts > 1 ? kTileQ / 32 : kTileQ / 16;  // so much of the update comes before the first part of dQ
      issue_update<0, kFirst>(walk);
      if constexpr (!kIsValues) Products::hand_over(step);
      if (kParts > 0 && step > 0) store_dq<kParts - 1>(step - 1);
      if constexpr (kParts > 1) {
        Products::await_ds(step);
        Products::issue_dq(step, 0);
        issue_update<kFirst, kTileQ / 16>(walk);
        wgmma_wait<1>();
        pin(dQ);
        store_dq<0>(step);
      }
      if (walk.advance(smem + at.task)) Products::open_head(walk);
      issue_scores(walk);
      wgmma_wait<1>();
      pin_sum();
      Products::release(kIsValues ? at.dout_empty : at.q_empty, done);
      if constexpr (kParts == 1) Products::await_ds(step);
      if constexpr (kParts > 0) Products::issue_dq(step, kParts - 1);
      wgmma_wait<(kParts > 0 ? 1 : 0)>();
      pin(X);
    }
    finish(walk, steps);
  }

  // The last step's update, and what is left of dQ.
  __device__ __forceinline__ void finish(const QueryWalk<Config>& walk, int steps) {
    issue_update(walk);
    if constexpr (!kIsValues) Products::hand_over(steps - 1);
    if constexpr (kParts > 0) {
      if (steps > 1) store_dq<kParts - 1>(steps - 2);
    }
    wgmma_wait<0>();
    pin_sum();
    if constexpr (kParts > 0) {
      Products::await_ds(steps - 1);
      if constexpr (kParts > 1) {
        Products::issue_dq(steps - 1, 0);
        wgmma_wait<0>();
        pin(dQ);
        store_dq<0>(steps - 1);
      }
      Products::issue_dq(steps - 1, kParts - 1);
      wgmma_wait<0>();
      pin(dQ);
      store_dq<kParts - 1>(steps - 1);
    }
  }

  // Rows of dV go to memory through V's place: the last dS, which values has seen, came after the last product with V. Rows of dK
  // go through K's, when both have made the last of dQ, and values the last of S.
  __device__ __forceinline__ void write(int steps) {
    if (!kIsValues && steps > 0) Products::await_ds_read(steps - 1);
    const unsigned place = smem + (kIsValues ? at.v : at.k);
    Products::template stage_rows<kColumns>(place, sum, kIsValues ? a.params.keep_scale : a.params.scale);
    fence_async_proxy();
    named_sync(1 + group, 128);
    if ((threadIdx.x & 127) == 0) {
      Products::template store_rows<kColumns>(kIsValues ? &a.dv : &a.dk, place);
      tma_store_commit();
      tma_store_wait();
    }
  }

  __device__ __forceinline__ void run() {
    const unsigned task = smem + at.task;
    Products::open_keys(find_item<Config>(a));
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) sum[i] = 0.f;
    pin(sum);
    const int steps = get_heads(task).steps();
    if (steps > 0) {
      QueryWalk<Config> walk(task);
      Products::open_head(walk);
      if constexpr (!c.stages_dq && kParts > 0) Products::open_sums();
      run_steps(walk, steps);
    }
    write(steps);
  }
};

}  // namespace flash_attn::cuda
