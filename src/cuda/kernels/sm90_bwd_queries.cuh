// The gradient of q on Hopper (sm_90a) as a kernel of its own: a block owns query rows and walks over the keys that they see, as
// the forward does, whose loader, items and rows serve here. So dQ stays in registers: nothing is added up in memory, whatever the
// order. The other gradients come from sm90_bwd.cuh.
//
//   warp groups 1..groups   64 query rows each: S = Q K^T, dP = dO V^T, dS = P (dP - delta), dQ += dS K with dS from registers
//
// A key tile is read by S and, a block later, by dQ: it is released one block late, and values come before the keys below them.
#pragma once

#include "cuda/kernels/sm90_fwd.cuh"
#include "cuda/kernels/tile/stat_rows.cuh"

namespace flash_attn::cuda {

template <class Config>
struct Sm90QueryGradients : Sm90Consumer<Config> {
  using Consumer = Sm90Consumer<Config>;
  using Consumer::at;
  using Consumer::c;
  using Consumer::k_stage;
  using Consumer::lane;
  using Consumer::leader;
  using Consumer::O;  // dQ
  using Consumer::P;  // dS, rounded
  using Consumer::p;
  using Consumer::part;
  using Consumer::S;
  using Consumer::smem;
  using Rows = Sm90Rows<Config>;
  using Span = typename Consumer::Span;

  const Sm90QueryArguments& query;
  unsigned dout_low, k_columns_low, v_rows_low;
  float D[c.tile_k / 2];  // dP
  float lse2[2], delta[2];

  __device__ __forceinline__ Sm90QueryGradients(const Sm90QueryArguments& arguments, unsigned shared, int g)
      : Consumer(arguments, shared, g), query(arguments) {
    dout_low = Consumer::descriptor_low(at.q + c.slabs() * 64 * 128, 0);
    k_columns_low = Consumer::descriptor_low(at.k, c.tile_k * 128);
    v_rows_low = Consumer::descriptor_low(at.v, 0);
  }

  // ---- Products ----

  __device__ __forceinline__ void issue_weight_gradients(int count) {
    const unsigned dout = dout_low + q_slot<Config>(count) * (at.q_all >> 4) + part * (at.q_group >> 4),
                   v = v_rows_low + Consumer::v_stage * (at.v_tile >> 4);
    pin(D);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < c.d_v / 16; ++i)
      Wgmma<c.tile_k>::ss(D, dout + (i / 4) * (64 * 128 >> 4) + (i % 4) * 2, Consumer::kDescriptorHigh,
                          v + (i / 4) * (c.tile_k * 128 >> 4) + (i % 4) * 2, Consumer::kDescriptorHigh, i > 0);
    wgmma_commit();
  }

  __device__ __forceinline__ void issue_query_gradient(int stage, int accumulates) {
    pin(O);
    pin(P);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < c.tile_k / 16; ++i)
      Wgmma<c.d>::rs(O, P[4 * i], P[4 * i + 1], P[4 * i + 2], P[4 * i + 3],
                     k_columns_low + stage * (at.k_tile >> 4) + i * (2048 >> 4), Consumer::kDescriptorHigh,
                     i > 0 ? 1 : accumulates);
    wgmma_commit();
  }

  // The tile of S stays until dQ has read it, too.
  __device__ __forceinline__ int keep_k() {
    const int stage = k_stage;
    if (++k_stage == c.stages) k_stage = 0, Consumer::k_phase ^= 1;
    return stage;
  }
  __device__ __forceinline__ void release_kept_k(int stage) {
    if (leader) barrier_arrive(smem + at.k_empty + 8 * stage);
  }

  // ---- Weights ----

  // Statistics of the thread's rows; of rows that are not there, those that give no weight.
  __device__ __forceinline__ void open_statistics(const Sm90Item& item) {
    const long long first = first_stat_row(p.cu_seqlens_q != nullptr, item.q_row, item.request, query.stat_tile, query.stat_tiles);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = item.tile * c.tile_q() + part * 64 + Consumer::row_in_group + 8 * r;
      const long long at_row = item.slot * query.stat_rows + first + row;
      const bool is_there = row < item.s_q;
      lse2[r] = is_there ? query.row_lse2[at_row] : -minus_infinity();
      delta[r] = is_there ? query.row_delta[at_row] : 0.f;
    }
  }

  template <bool kMasked>
  __device__ __forceinline__ void weigh(const Rows& rows, int block) {
    if constexpr (kMasked) {
      const int column = block * c.tile_k;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const Limits limits{rows.limits[r].lo - column, rows.limits[r].hi - column, rows.limits[r].first - column};
        hide_others<c.tile_k>(S, keys_inside<c.tile_k, c.mask == KeyMask::interval>(limits), r);
      }
    }
    const float factor = Consumer::factor();
#pragma unroll
    for (int x = 0; x < c.tile_k / 2; ++x) S[x] = exp2_fast(fmaf(S[x], factor, -lse2[(x >> 1) & 1]));
  }

  __device__ __forceinline__ float total_weight() const {
    float even = 0, odd = 0;
#pragma unroll
    for (int x = 0; x < c.tile_k / 2; x += 2) even += S[x], odd += S[x + 1];
    return even + odd;
  }

  // dS in the place of P.
  __device__ __forceinline__ void differentiate() {
#pragma unroll
    for (int x = 0; x < c.tile_k / 2; ++x) S[x] *= D[x] - delta[(x >> 1) & 1];
  }

  // ---- The loop ----

  // Where the walk over an item's blocks stands: S of `block` is in flight, and dQ of the block above it.
  struct Step {
    int block, kept, above;  // stages of the keys of S, and of the dQ that is in flight; -1: none is
    int accumulates;
  };

  // Whether another block follows, then in step.block.
  __device__ __forceinline__ bool advance(const Span& span, int last, int& block) const {
    if (block == last) return false;
    if (c.mask == KeyMask::interval && block == span.first && span.leading > 0)
      block = last + span.leading - 1;
    else
      --block;
    return true;
  }

  __device__ __forceinline__ void finish_above(Step& step) {
    wgmma_wait<0>();
    pin(O);
    pin(P);
    if (step.above >= 0) release_kept_k(step.above);
  }

  // Behind S come dQ of the block above and dP: they run beside the exponentials.
  template <bool kMasked>
  __device__ __forceinline__ void make_gradients(const Rows& rows, Step& step) {
    wgmma_wait<2>();
    pin(S);
    weigh<kMasked>(rows, step.block);
    hold(total_weight());
    finish_above(step);
    pin(D);
    Consumer::release_v();
    differentiate();
    Consumer::template pack_weights<0, c.tile_k>();
    step.above = step.kept;
  }

  // All blocks of an item, S of the first of which is done.
  __device__ __forceinline__ void walk(int count, const Span& span) {
    const Sm90Item item = Consumer::whole_item(count);
    const Rows rows(p, item, part * 64, Consumer::row_in_group, 2 * (lane & 3), Consumer::dropout);
    open_statistics(item);
    const int last = c.mask == KeyMask::interval && span.leading > 0 ? item.low : span.first;
    Step step{span.end - 1, keep_k(), -1, 0};
    Consumer::recycle_staging(count);
#pragma unroll 1
    for (int skipped = span.last; skipped > span.end; --skipped) {
      Consumer::pass_v();
    }
    Consumer::wait_v();
    issue_weight_gradients(count);
#pragma unroll 1
    while (true) {
      if (step.block < rows.clear_last && step.block >= rows.clear_first)
        make_gradients<false>(rows, step);
      else
        make_gradients<true>(rows, step);
      if (!advance(span, last, step.block)) break;
      Consumer::wait_k();
      Consumer::issue_scores(count, part);
      issue_query_gradient(step.above, step.accumulates);
      step.kept = keep_k();
      step.accumulates = 1;
      Consumer::wait_v();
      issue_weight_gradients(count);
    }
    issue_query_gradient(step.above, step.accumulates);
    finish_above(step);
  }

  // Rows without keys have no gradient; a group without rows lets the tiles pass.
  __device__ __forceinline__ void pass(int count, const Span& span) {
    Consumer::recycle_staging(count);
#pragma unroll 1
    for (int left = span.last - span.first + span.leading; left > 0; --left) {
      Consumer::pass_k();
      Consumer::pass_v();
    }
#pragma unroll
    for (int x = 0; x < c.d / 2; ++x) O[x] = 0.f;
  }

  __device__ __forceinline__ void run() {
    int count = 0;
    Span span = Consumer::fetch_span(0, part);
    if (span.tile < 0) return;
    Consumer::begin_item(0, span, part);
    wgmma_wait<0>();
    pin(S);
    while (true) {
      if (span.end > span.first)
        walk(count, span);
      else
        pass(count, span);
      // The next item's first scores run beneath this one's way out.
      const Sm90Item item = Consumer::whole_item(count);
      const Span next = Consumer::fetch_span(count + 1, Consumer::next_part());
      Consumer::begin_item(count + 1, next, Consumer::next_part());
      const RowFinish finish[2] = {{p.scale, 0.f}, {p.scale, 0.f}};
      Consumer::write_staged(item, smem + at.q + q_slot<Config>(count) * at.q_all + part * at.q_group, finish);
      Consumer::release_item(count);
      wgmma_wait<0>();
      pin(S);
      ++count;
      if (next.tile < 0) break;
      span = next;
      part = Consumer::next_part();
    }
    if (leader) tma_store_wait();
  }
};

// ---- Kernel ----

template <class Config>
__device__ __forceinline__ void sm90_query_gradients(const Sm90QueryArguments& arguments) {
  constexpr Sm90ForwardConfig c = Config::value;
  static_assert(
      c.makes_dq && c.d == c.d_v && c.shares_q_buffer && c.q_buffers == 2 && !c.gathers_q && !c.gathers_k && !c.is_dynamic,
      "a schedule of query gradients");
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  const unsigned smem = shared_address(shared_memory);
  const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (threadIdx.x == 0) {
    prefetch_map(&arguments.q), prefetch_map(&arguments.o), prefetch_map(&arguments.dout);
    prefetch_map(&arguments.k), prefetch_map(&arguments.v);
    init_barriers<Config>(smem);
  }
  __syncthreads();
  if (group == 0) {
    shrink_registers<c.producer_registers>();
    if (threadIdx.x < c.loaders()) Sm90Loader<Config>(arguments, smem).run();
  } else {
    grow_registers<c.consumer_registers>();
    Sm90QueryGradients<Config>(arguments, smem, group - 1).run();
  }
}

}  // namespace flash_attn::cuda
