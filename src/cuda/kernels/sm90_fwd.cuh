// Attention forward on Hopper (sm_90a): wgmma multiplies, warp groups specialise, tensor maps (or, where they cannot, threads)
// bring tiles in and out.
//
//   warp group 0                draws items, publishes them, loads Q, K, V (sm90_load.cuh); two of its warps may read Q and merge
//                               key splits instead (sm90_row_warps.cuh)
//   warp groups 1..groups       64 query rows each: S = Q K^T, softmax in registers, O += P V with P from registers
//
// Barriers (all mbarriers; counts in brackets): q_full[2][groups], k_full, v_full[stages] tx, or all loaders where threads copy;
// q_empty[2][groups] 1; mask_full[2] one arrival a mask warp, mask_empty[2] one a consumer warp (mask_warps()); k_empty,
// v_empty[stages] one arrival a group; item_full[2] 1, item_empty[2] one arrival a consumer, mask or row warp; part_full[2] one a
// consumer warp (merges_splits). Named barriers: 1 + g turns, 8 + g one group, 14 the row warps, 15 the loaders. A group's first
// product of the next item starts behind the last product of this one, so the epilogue runs beneath it.
#pragma once

#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/ptx/special.cuh"
#include "cuda/kernels/ptx/tma.cuh"
#include "cuda/kernels/ptx/warpgroup.cuh"
#include "cuda/kernels/sm90_configs.h"
#include "cuda/kernels/sm90_dropout.cuh"
#include "cuda/kernels/sm90_items.cuh"
#include "cuda/kernels/sm90_load.cuh"
#include "cuda/kernels/sm90_mask.cuh"
#include "cuda/kernels/sm90_parts.cuh"
#include "cuda/kernels/sm90_row_warps.cuh"
#include "cuda/kernels/sm90_rows.cuh"
#include "cuda/kernels/sm90_softmax.cuh"
#include "cuda/kernels/sm90_visible.cuh"

namespace flash_attn::cuda {

template <int kColumns>
struct Wgmma;  // m64 n kColumns k16 products, generated with the kernel

template <class Config>
struct Sm90Consumer {
  static constexpr Sm90ForwardConfig c = Config::value;
  static constexpr Sm90Layout at{c};
  // 128-byte swizzle; 1024 bytes between groups of 8 rows.
  static constexpr unsigned kDescriptorHigh = (1u << 30) | (1024 >> 4);
  // What hides keys beside their limits, so that a row may see nothing of any block.
  static constexpr bool kHides = c.has_bool_mask || c.bias_dtype != DType::none;
  static constexpr bool kShapes = c.is_scaled || c.has_softcap || Sm90Rows<Config>::kReads;

  const Sm90ForwardArguments& a;
  const ForwardParams& p;
  unsigned smem;
  int group, lane, warp, row_in_group;
  int part;  // which 64 rows of the item's tile this group has
  bool leader;
  unsigned q_low, k_low, v_low;
  int k_stage = 0, k_phase = 0, v_stage = 0, v_phase = 0, mask_stage = 0, mask_phase = 0;
  DropoutRun dropout;
  float O[c.d_v / 2], S[c.tile_k / 2];
  unsigned P[c.tile_k / 4];

  __device__ __forceinline__ Sm90Consumer(const Sm90ForwardArguments& arguments, unsigned shared, int g)
      : a(arguments), p(arguments.params), smem(shared), group(g), part(g) {
    lane = threadIdx.x & 31;
    warp = (threadIdx.x >> 5) & 3;
    row_in_group = warp * 16 + lane / 4;
    leader = (threadIdx.x & 127) == 0;
    q_low = descriptor_low(at.q, 0);
    k_low = descriptor_low(at.k, 0);
    v_low = descriptor_low(at.v, c.tile_k * 128);  // V is read column-major: the next 64 columns lie a slab further
    if constexpr (c.has_dropout) dropout = dropout_run<(c.tile_k > 16)>(dropout_key_of(p), p.dropout_threshold);
  }

  // First word of an operand's descriptor, the same in all lanes.
  __device__ __forceinline__ unsigned descriptor_low(int base, int group_bytes) const {
    return __shfl_sync(0xffffffffu, (((smem + base) & 0x3ffff) >> 4) | ((group_bytes >> 4) << 16), 0);
  }

  __device__ __forceinline__ float factor() const { return score_unit<c>(p); }

  // ---- Turns, products, stages ----

  __device__ __forceinline__ void begin_turn() {
    if (c.takes_turns) named_sync(1 + group, 256);
  }
  __device__ __forceinline__ void end_turn() {
    if (c.takes_turns) named_arrive(1 + (group + 1 == c.groups ? 0 : group + 1), 256);
  }

  __device__ __forceinline__ void issue_scores(int count, int rows) {
    const unsigned q = q_low + q_slot<Config>(count) * (at.q_all >> 4) + rows * (at.q_group >> 4),
                   k = k_low + k_stage * (at.k_tile >> 4);
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

  __device__ __forceinline__ void wait_k() { barrier_wait(smem + at.k_full + 8 * k_stage, k_phase); }
  __device__ __forceinline__ void wait_v() { barrier_wait(smem + at.v_full + 8 * v_stage, v_phase); }
  __device__ __forceinline__ void release_k() {
    if (leader) barrier_arrive(smem + at.k_empty + 8 * k_stage);
    if (++k_stage == c.stages) k_stage = 0, k_phase ^= 1;
  }
  __device__ __forceinline__ void release_v() {
    if (leader) barrier_arrive(smem + at.v_empty + 8 * v_stage);
    if (++v_stage == c.stages) v_stage = 0, v_phase ^= 1;
  }
  // A tile that the group does not read. No product keeps its warps together here: none may be a whole phase behind.
  __device__ __forceinline__ void pass_k() { wait_k(), named_sync(8 + group, 128), release_k(); }
  __device__ __forceinline__ void pass_v() { wait_v(), named_sync(8 + group, 128), release_v(); }
  __device__ __forceinline__ void wait_mask() {
    if constexpr (c.mask_warps() > 0) barrier_wait(smem + at.mask_full + 8 * mask_stage, mask_phase);
  }
  __device__ __forceinline__ void release_mask() {
    if constexpr (c.mask_warps() == 0) return;
    __syncwarp();
    if (lane == 0) barrier_arrive(smem + at.mask_empty + 8 * mask_stage);
    if (++mask_stage == at.kMaskStages) mask_stage = 0, mask_phase ^= 1;
  }
  __device__ __forceinline__ void release_q(int count, int rows) {
    barrier_arrive(smem + at.q_empty + 8 * (q_slot<Config>(count) * c.groups + rows));
  }

  template <int kFirst = 0, int kEnd = c.tile_k / 4>
  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int i = kFirst; i < kEnd; ++i) P[i] = pack2<c.dtype>(S[2 * i], S[2 * i + 1]);
  }

  // ---- Items ----

  // What the loop over blocks needs of an item.
  struct Span {
    int tile, first, last, leading, end;
  };
  // Rows further down see more keys under a causal mask, so the groups take turns at them.
  __device__ __forceinline__ int next_part() const {
    if (!c.rotates_rows) return part;
    return part + 1 == c.groups ? 0 : part + 1;
  }
  __device__ __forceinline__ int previous_part() const {
    if (!c.rotates_rows) return part;
    return part == 0 ? c.groups - 1 : part - 1;
  }
  __device__ __forceinline__ unsigned item_address(int count) const { return smem + at.items + at.kItemBytes * (count & 1); }
  __device__ __forceinline__ Span fetch_span(int count, int rows) {
    Span span;
    barrier_wait(smem + at.item_full + 8 * (count & 1), (count >> 1) & 1);
    load_shared4(item_address(count), span.tile, span.first, span.last, span.leading);
    span.tile = __shfl_sync(0xffffffffu, span.tile, 0);
    span.first = __shfl_sync(0xffffffffu, span.first, 0);
    span.last = __shfl_sync(0xffffffffu, span.last, 0);
    span.leading = c.mask == KeyMask::interval ? __shfl_sync(0xffffffffu, span.leading, 0) : 0;
    span.end = __shfl_sync(0xffffffffu, load_shared_int(item_address(count) + 16 + 4 * rows), 0);
    return span;
  }
  // All of it, read again where it is needed: registers are too dear to keep it over the loop.
  __device__ __forceinline__ Sm90Item whole_item(int count) const { return read_item(item_address(count)); }
  __device__ __forceinline__ void release_item(int count) {
    __syncwarp();
    if (lane == 0) barrier_arrive(smem + at.item_empty + 8 * (count & 1));
  }

  // The first scores of an item, past the blocks that this group sees nothing of. Without an item the product still runs, over
  // whatever lies there, so that the stream has no branch.
  __device__ __forceinline__ void begin_item(int count, const Span& span, int rows) {
    if (span.tile >= 0) {
      barrier_wait(smem + at.q_full + 8 * (q_slot<Config>(count) * c.groups + rows), q_phase<Config>(count));
      if (span.end > span.first) {
#pragma unroll 1
        for (int block = span.last; block > span.end; --block) pass_k();
        wait_k();
      }
    }
    issue_scores(count, rows);
  }

  // ---- Rows ----

  using Rows = Sm90Rows<Config>;

  // The block's boolean mask.
  __device__ __forceinline__ void take_mask(VisibleKeys<c.tile_k> (&keys)[2]) {
    const unsigned words = smem + at.masks + mask_stage * at.mask_tile + (part * 64 + row_in_group) * 16 + (lane & 3) * 4;
    wait_mask();
#pragma unroll
    for (int n = 0; n < keys[0].kWords; ++n) {
      keys[0].word[n] = load_shared_u32(words + n * c.tile_q() * 16);
      keys[1].word[n] = load_shared_u32(words + n * c.tile_q() * 16 + 8 * 16);
    }
    release_mask();
  }

  // The block's scores become packed weights. Draws of dropout go along, for two calls of the generator at a time: one leaves its
  // units idle, all of them would take the registers of the accumulators.
  template <int kTile = 0, class AnyWeigher>
  __device__ __forceinline__ void weigh(AnyWeigher& weigher, const Rows& rows, int block) {
    if constexpr (!c.has_dropout) {
      weigher.template weigh<0, c.tile_k / 2>(S);
      pack_weights();
    } else if constexpr (kTile < c.tile_k / 16) {
      constexpr int kCalls = c.tile_k / 16 - kTile > 1 ? 2 : 1;
      const unsigned tile = forget(static_cast<unsigned>(block * (c.tile_k / 16) + kTile));
      unsigned kept[kCalls][4];
#pragma unroll
      for (int t = 0; t < kCalls; ++t) draw_kept(kept[t], dropout, rows.dropout, tile + t);
      weigher.template weigh<8 * kTile, 8 * (kTile + kCalls)>(S);
      pack_weights<4 * kTile, 4 * (kTile + kCalls)>();
#pragma unroll
      for (int i = 0; i < 4 * kCalls; ++i) P[4 * kTile + i] &= kept[i / 4][i % 4];
      weigh<kTile + kCalls>(weigher, rows, block);
    }
  }

  template <bool kMasked>
  __device__ __forceinline__ bool raise_block(const Rows& rows, RowState& state, int block) {
    const int column = block * c.tile_k;
    if constexpr (kShapes) {
      // Without keys there is nothing to read.
      if (!Rows::kReads || rows.last >= 0) shape_scores<c>(S, p, rows.score, column + 2 * (lane & 3), rows.last);
    }
    if constexpr (c.has_alibi) {
      const int side = block < rows.left_last ? 1 : (block >= rows.right_first ? -1 : 0), first = column + 2 * (lane & 3);
      // Rows of one head share their slope and lie eight keys apart.
      constexpr int kSecond = c.gathers_q ? 1 : 0;
      const float slope[2] = {rows.score[0].slope, rows.score[kSecond].slope};
      const float distance[2] = {static_cast<float>(rows.score[0].diagonal - first),
                                 static_cast<float>(rows.score[kSecond].diagonal + (c.gathers_q ? 0 : 8) - first)};
      add_distances<c.tile_k>(S, slope, distance, side, state.shift);
    }
    VisibleKeys<c.tile_k> keys[2];
    if constexpr (c.mask_warps() > 0) take_mask(keys);
    if constexpr (kMasked) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const Limits& limits = rows.limits[r];
        const VisibleKeys<c.tile_k> inside =
            keys_inside<c.tile_k, c.mask == KeyMask::interval>({limits.lo - column, limits.hi - column, limits.first - column});
        keys[r] = c.mask_warps() > 0 ? common_keys(keys[r], inside) : inside;
        if constexpr (c.has_tree)
          show_branches<c.tile_k>(keys[r], rows.score[r].tree, p.tree_words, column + 2 * (lane & 3) - rows.tree_prefix);
      }
    }
    if constexpr (kMasked || c.mask_warps() > 0) {
      hide_others<c.tile_k>(S, keys[0], 0);
      hide_others<c.tile_k>(S, keys[1], 1);
    }
    return raise_tops < c, kMasked || kHides > (S, state, factor());
  }

  // ---- Results ----

  // Ends the rows' sums: what o is multiplied by, and the log-sum-exp.
  __device__ __forceinline__ void finish_rows(const Sm90Item& item, RowState& state, RowFinish (&finish)[2]) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
#pragma unroll
      for (int r = 0; r < 2; ++r) state.sum[r] += __shfl_xor_sync(0xffffffffu, state.sum[r], step);
    }
    if constexpr (c.has_splits) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = item.tile * c.tile_q() + part * 64 + row_in_group + 8 * r;
      finish[r] = finish_row(p, place_of_row(item, row).head, state.top[r] * factor(), state.sum[r]);
    }
  }
  // After o is on its way: nothing waits for these.
  __device__ __forceinline__ void write_lse(const Sm90Item& item, const RowFinish (&finish)[2]) const {
    if (c.has_splits || !p.lse || (lane & 3) != 0) return;
    const Request request = query_side(item);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = item.tile * c.tile_q() + part * 64 + row_in_group + 8 * r;
      const RowPlace place = place_of_row(item, row);
      if (row < item.s_q * static_cast<int>(p.pack.value))
        p.lse[query_offset(p.lse_axes, request, place.i, place.head)] = finish[r].lse;
    }
  }
  __device__ __forceinline__ Request query_side(const Sm90Item& item) const {
    Request request;
    request.index = item.request;
    request.q_row = item.q_row;
    return request;
  }
  // Only threads that read q stack heads.
  __device__ __forceinline__ RowPlace place_of_row(const Sm90Item& item, int row) const {
    return c.gathers_q ? place_of(p, item.slot, row) : RowPlace{row, item.slot};
  }

  // Columns of o, from slab `first` on, as many as a pass takes.
  template <int kFirst>
  __device__ __forceinline__ void stage_output(unsigned target, const RowFinish (&finish)[2]) {
    constexpr int kEnd = (kFirst + c.o_slabs()) * 4 < c.d_v / 16 ? (kFirst + c.o_slabs()) * 4 : c.d_v / 16;
    const int row = warp * 16 + (lane & 15);
#pragma unroll
    for (int i = kFirst * 4; i < kEnd; ++i) {
      const unsigned chunk = (2 * (i % 4) + (lane >> 4)) ^ (row & 7);
      unsigned x[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float f = finish[e & 1].factor;
        x[e] = f == 0.f ? 0u : pack2<c.dtype>(O[8 * i + 2 * e] * f, O[8 * i + 2 * e + 1] * f);
      }
      store_matrix4(target + row * 128 + (i / 4 - kFirst) * (64 * 128) + chunk * 16, x[0], x[1], x[2], x[3]);
    }
  }

  template <int kFirst>
  __device__ __forceinline__ void store_staged(const Sm90Item& item, unsigned source) {
    MapPoint to = first_row < c.has_lengths ||
                  c.is_paged > (item.q_row, item.s_q, item.slot, p.cu_seqlens_q ? 0 : item.request, a.extras.batch_rows_q);
    to.row += item.tile * c.tile_q() + part * 64;
    for (int slab = kFirst; slab < min(kFirst + c.o_slabs(), c.slabs_v()); ++slab) {
      to.column = slab * Sm90ForwardConfig::kSlab;
      tma_store(&a.o, source + (slab - kFirst) * 64 * 128, to);
    }
    tma_store_commit();
  }

  // Each pass waits until the one before has left the buffer.
  template <int kFirst = 0>
  __device__ __forceinline__ void write_staged(const Sm90Item& item, unsigned staging, const RowFinish (&finish)[2]) {
    if constexpr (kFirst > 0) {
      if (leader) tma_store_wait_read();
      named_sync(8 + group, 128);
    }
    stage_output<kFirst>(staging, finish);
    fence_async_proxy();
    named_sync(8 + group, 128);
    if (leader) store_staged<kFirst>(item, staging);
    if constexpr (kFirst + c.o_slabs() < c.slabs_v()) write_staged<kFirst + c.o_slabs()>(item, staging, finish);
  }

  __device__ __forceinline__ void write_rows(const Sm90Item& item, const RowState& state, const RowFinish (&finish)[2]) {
    const Request request = query_side(item);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int in_tile = part * 64 + row_in_group + 8 * r, row = item.tile * c.tile_q() + in_tile;
      if (row >= item.s_q * static_cast<int>(p.pack.value)) continue;
      if constexpr (c.has_splits) {
        write_part<Config>(a, item.number, in_tile, O, r, state.top[r] * factor(), state.sum[r]);
      } else {
        const RowPlace place = place_of_row(item, row);
        constexpr int kBytes = c.o_dtype == DType::f32 ? 4 : 2;
        write_row<Config, c.o_dtype, c.o_pairs>(p.o + query_offset(p.o_axes, request, place.i, place.head) * kBytes, O, r,
                                                finish[r].factor);
      }
    }
  }

  // ---- The loop ----

  // Scores of `block` and values of the block above it are in flight while the softmax of `block` runs.
  template <bool kMasked>
  __device__ __forceinline__ void step(int count, const Rows& rows, RowState& state, int block, int last, int& accumulates) {
    wait_k();
    begin_turn();
    issue_scores(count, part);
    wait_v();
    issue_values(accumulates);
    accumulates = 1;
    end_turn();
    wgmma_wait<1>();
    pin(S);
    release_k();
    release_last_q(count, block == last);
    const bool rescales = raise_block<kMasked>(rows, state, block);
    Weigher<c, (kMasked || kHides)> weigher(S, state, factor());
    wgmma_wait<0>();
    pin(O);
    pin(P);
    release_v();
    if (rescales) {
#pragma unroll
      for (int x = 0; x < c.d_v / 2; ++x) O[x] *= state.alpha[(x >> 1) & 1];
    }
    weigh(weigher, rows, block);
    weigher.add_to(state);
  }

  // An item's first block: nothing else is in flight.
  template <bool kMasked>
  __device__ __forceinline__ void weigh_first_block(const Rows& rows, RowState& state, int block) {
    raise_block<kMasked>(rows, state, block);
    Weigher<c, (kMasked || kHides)> weigher(S, state, factor());
    weigh(weigher, rows, block);
    weigher.add_to(state);
  }

  // With an item's last scores q has done its part, unless o is staged there.
  __device__ __forceinline__ void release_last_q(int count, bool is_last) {
    if ((c.gathers_q || !c.shares_q_buffer) && is_last && leader) release_q(count, part);
  }

  // Once o of the item before has left its buffer, that is free.
  __device__ __forceinline__ void recycle_staging(int count) {
    if (c.gathers_q || !c.overlaps_tiles || !leader) return;
    tma_store_wait_read();
    if (c.shares_q_buffer && count > 0) release_q(count - 1, previous_part());
  }

  // A group without rows lets the item's tiles pass.
  __device__ __forceinline__ void pass(int count, const Span& span) {
    recycle_staging(count);
    release_last_q(count, true);
    pass_k();
    wait_mask();
    release_mask();
#pragma unroll 1
    for (int left = span.last - span.first + span.leading - 1; left > 0; --left) {
      begin_turn();
      pass_k();
      pass_v();
      wait_mask();
      release_mask();
      end_turn();
    }
  }

  // From the first scores of an item to the weights of its last block. Returns how many blocks below that the group sees nothing
  // of, 0 or 1: together with those passed over in the next item they must find room before the last values are released.
  __device__ __forceinline__ int walk(int count, const Span& span, RowState& state, int& accumulates) {
    const Rows rows(p, whole_item(count), part * 64, row_in_group, 2 * (lane & 3), dropout.rounds);
    release_k();
    int first = span.first;
    if (c.mask == KeyMask::interval && c.mask_warps() == 0 && p.first_keys == 0)
      first = clamp_int(rows.seen_first, first, min(first + 2, span.end) - 1);
    int last = first;
    if (c.mask == KeyMask::interval && span.leading > 0) last = whole_item(count).low;
    int block = span.end - 1;
    release_last_q(count, block == last);
    if (block < rows.clear_last && block >= rows.clear_first)
      weigh_first_block<false>(rows, state, block);
    else
      weigh_first_block<true>(rows, state, block);
    recycle_staging(count);
#pragma unroll 1
    for (int skipped = span.last; skipped > span.end; --skipped) {
      begin_turn();
      pass_v();
      end_turn();
    }
    --block;
#pragma unroll 1
    for (; block >= max(first, rows.clear_last); --block) step<true>(count, rows, state, block, last, accumulates);
#pragma unroll 1
    for (; block >= max(first, rows.clear_first); --block) step<false>(count, rows, state, block, last, accumulates);
    if constexpr (c.mask == KeyMask::interval) {
#pragma unroll 1
      for (; block >= first; --block) step<true>(count, rows, state, block, last, accumulates);
      if (span.leading > 0) {
#pragma unroll 1
        for (block = last + span.leading - 1; block >= last; --block) step<true>(count, rows, state, block, last, accumulates);
      }
    }
    return first - span.first;
  }

  // Blocks at an item's end that the group sees nothing of.
  __device__ __forceinline__ void pass_keys(int unseen) {
#pragma unroll 1
    for (; unseen > 0; --unseen) {
      begin_turn();
      pass_k();
      end_turn();
    }
  }
  __device__ __forceinline__ void pass_values(int unseen) {
#pragma unroll 1
    for (; unseen > 0; --unseen) pass_v();
  }

  __device__ __forceinline__ void write(int count, RowState& state, const Sm90Item& item, const RowFinish (&finish)[2]) {
    if constexpr (c.gathers_q) {
      write_rows(item, state, finish);
      if constexpr (c.merges_splits) {
        __syncwarp();
        if (lane == 0) barrier_arrive(smem + at.part_full + 8 * (count & 1));
      }
    } else {
      write_staged(
          item,
          smem + (c.shares_q_buffer ? at.q + q_slot<Config>(count) * at.q_all + part * at.q_group : at.o + group * at.o_group),
          finish);
    }
    write_lse(item, finish);
  }

  __device__ __forceinline__ void run() {
    if (c.takes_turns && group == c.groups - 1) named_arrive(1, 256);  // group 0 goes first
    int count = 0;
    Span span = fetch_span(0, part);
    if (span.tile < 0) return;
    begin_item(0, span, part);
    wgmma_wait<0>();
    pin(S);
    while (true) {
      RowState state;
      int accumulates = 0, unseen = 0;
      if (span.end > span.first)
        unseen = walk(count, span, state, accumulates);
      else
        pass(count, span);
      wait_v();

      // The last values of this item, then the first scores of the next one: the epilogue hides behind them. A single q buffer is
      // being filled meanwhile, so that more of the epilogue comes first.
      issue_values(accumulates);
      pass_keys(unseen);
      const Sm90Item item = whole_item(count);
      RowFinish finish[2];
      if constexpr (c.q_buffers == 1) finish_rows(item, state, finish);
      Span next;
      if constexpr (c.overlaps_tiles) {
        next = fetch_span(count + 1, next_part());
        begin_item(count + 1, next, next_part());
      }
      if constexpr (c.q_buffers == 2) finish_rows(item, state, finish);
      if constexpr (!c.gathers_q) named_sync(8 + group, 128);  // everyone knows that the staging buffer is free
      wgmma_wait<c.overlaps_tiles ? 1 : 0>();
      pin(O);
      release_v();
      pass_values(unseen);
      write(count, state, item, finish);
      release_item(count);
      if constexpr (!c.overlaps_tiles) {
        if (!c.gathers_q && leader) {
          tma_store_wait_read();
          if (c.shares_q_buffer) release_q(count, part);
        }
        next = fetch_span(count + 1, next_part());
        if (next.tile < 0) break;
        begin_item(count + 1, next, next_part());
      }
      wgmma_wait<0>();
      pin(S);
      ++count;
      if (next.tile < 0) break;
      span = next;
      part = next_part();
    }
    if (!c.gathers_q && leader) tma_store_wait();
  }
};

// ---- Kernel ----

template <class Config>
__device__ __forceinline__ void sm90_forward(const Sm90ForwardArguments& arguments) {
  constexpr Sm90ForwardConfig c = Config::value;
  constexpr Sm90Layout at(c);
  constexpr int launch_registers = 65536 / (c.threads() * c.blocks_per_sm) / 8 * 8;
  static_assert(c.groups * c.consumer_registers + c.producer_registers <= launch_registers * (c.groups + 1),
                "setmaxnreg would wait for ever");
  static_assert(c.d % 16 == 0 && c.d_v % 16 == 0 && c.tile_k % 16 == 0, "tiles are whole instructions");
  static_assert(!c.shares_q_buffer || at.o_group <= at.q_group, "o must fit where q was");
  static_assert(!c.has_splits || c.gathers_q, "partial results are written by threads");
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  const unsigned smem = shared_address(shared_memory);
  const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if constexpr (c.merges_splits) touch_parameters(arguments.params);
  if (threadIdx.x == 0) {
    if constexpr (!c.gathers_q) prefetch_map(&arguments.q), prefetch_map(&arguments.o);
    if constexpr (!c.gathers_k) prefetch_map(&arguments.k), prefetch_map(&arguments.v);
    init_barriers<Config>(smem);
  }
  __syncthreads();
  if (group == 0) {
    shrink_registers<c.producer_registers>();
    if (threadIdx.x < c.loaders()) Sm90Loader<Config>(arguments, smem).run();
    if constexpr (c.mask_warps() > 0) {
      constexpr int kFirst = 128 - 32 * c.mask_warps();
      if (threadIdx.x >= kFirst) Sm90MaskPacker<Config>(arguments.params, smem, static_cast<int>(threadIdx.x) - kFirst).run();
    }
    if constexpr (c.row_warps) {
      if (threadIdx.x >= 128 - c.kRowThreads) Sm90RowWarps<Config>(arguments, smem).run();
    }
  } else {
    grow_registers<c.consumer_registers>();
    Sm90Consumer<Config>(arguments, smem, group - 1).run();
  }
}

}  // namespace flash_attn::cuda
