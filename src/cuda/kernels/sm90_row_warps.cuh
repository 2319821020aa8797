// Two warps of warp group 0 beside the loader of the Hopper kernel: they bring in queries that no tensor map describes (stacked
// heads), and where they finish the last split of a tile they merge its partial results, in split order. An item's queries come
// ahead of the merge of the item before. Knows the layout of partial results (Sm90Extras), nothing of keys or of the loader.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/device_read.cuh"
#include "cuda/kernels/ptx/group_barrier.cuh"
#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/ptx/order.cuh"
#include "cuda/kernels/sm90_configs.h"
#include "cuda/kernels/sm90_items.cuh"
#include "cuda/kernels/sm90_load.cuh"
#include "cuda/kernels/tile/scores.cuh"
#include "cuda/kernels/tile/write.cuh"

namespace flash_attn::cuda {

constexpr int kRowWarpsBarrier = 14;

// Parameters wait in memory at a launch, line by line: warps that have nothing else to do yet ask for them together, so that who
// needs them finds them near.
template <int kLine = 0>
__device__ __forceinline__ void touch_parameters(const ForwardParams& p) {
  constexpr int kWarps = 7, kLineWords = 16;
  if constexpr ((kLine + 1) * kLineWords * 4 <= sizeof(ForwardParams)) {
    if (threadIdx.x / 32 == 1 + kLine % kWarps) forget(reinterpret_cast<const unsigned*>(&p)[kLine * kLineWords]);
    touch_parameters<kLine + 1>(p);
  }
}

template <class Config>
struct Sm90RowWarps {
  static constexpr Sm90ForwardConfig c = Config::value;
  static constexpr Sm90Layout at{c};
  static_assert(c.gathers_q && !c.gathers_k, "rows of k and v take all threads");
  static_assert(c.has_splits || !c.merges_splits);
  static constexpr int kThreads = c.kRowThreads;
  static constexpr int kQuads = (c.d_v + 127) / 128;                             // groups of four columns that a lane has of a row
  static constexpr int kAhead = (c.producer_registers < 112 ? 8 : 16) / kQuads;  // splits whose rows are on their way; divides 32

  static constexpr float kLowest = -3.402823466e38f;

  const Sm90ForwardArguments& a;
  const ForwardParams& p;
  unsigned smem;
  int thread, lane;

  __device__ __forceinline__ Sm90RowWarps(const Sm90ForwardArguments& arguments, unsigned shared)
      : a(arguments), p(arguments.params), smem(shared) {
    thread = static_cast<int>(threadIdx.x) - (128 - kThreads);
    lane = thread & 31;
  }

  __device__ __forceinline__ Sm90Item fetch_item(int count) const {
    barrier_wait(smem + at.item_full + 8 * (count & 1), (count >> 1) & 1);
    return read_item(smem + at.items + (count & 1) * at.kItemBytes);
  }
  __device__ __forceinline__ void release_item(int count) const {
    __syncwarp();
    if (lane == 0) barrier_arrive(smem + at.item_empty + 8 * (count & 1));
  }

  __device__ __forceinline__ void load_queries(const Sm90Item& item, int count) const {
    const int buffer = q_slot<Config>(count), bars = 8 * buffer * c.groups;
    const Request request = find_request<c.has_lengths>(p, item.request);
#pragma unroll 1
    for (int g = 0; g < c.groups; ++g) {
      barrier_wait(smem + at.q_empty + bars + 8 * g, q_phase<Config>(count) ^ 1);
      gather_queries<Config, kThreads>(p, request, item, smem + at.q + buffer * at.q_all + g * at.q_group,
                                       static_cast<unsigned>(thread), g);
    }
    copy_async_commit();
    copy_async_wait<0>();
    fence_async_proxy();
    for (int g = 0; g < c.groups; ++g) barrier_arrive(smem + at.q_full + bars + 8 * g);
  }

  // Counts a finished split; true for the last one of the tile, after which all partial results can be seen.
  __device__ __forceinline__ bool is_last_split(int unit, int splits) const {
    bool is_last = splits == 1;
    if (thread == 0) {
      fence_device();
      if (splits > 1) {
        unsigned* const finished = a.extras.finished + unit;
        is_last = atomicAdd(finished, 1u) == static_cast<unsigned>(splits) - 1;
        if (is_last) *finished = 0;
        fence_device();
      }
    }
    return any_of_group(kRowWarpsBarrier, kThreads, is_last);
  }

  // A row's columns of some splits; `lines` are the first one's, `step` floats apart.
  __device__ __forceinline__ void load_lines(float4 (&x)[kAhead][kQuads], const float* lines, long long step, int count) const {
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
#pragma unroll
      for (int quad = 0; quad < kQuads; ++quad) {
        const bool is_there = n < count && 128 * quad + 4 * lane < c.d_v;
        x[n][quad] = is_there ? load_device_float4(lines + n * step + 128 * quad) : float4{0.f, 0.f, 0.f, 0.f};
      }
    }
  }

  // The first lines are on their way while the maximum is found.
  __device__ __forceinline__ void merge_row(const Sm90Item& item, long long first, int splits, int row) const {
    const long long step = a.extras.part_rows, all_rows = step * p.items;
    const float* const stats = p.partials + all_rows * c.d_v + (first + row) * 2;
    const float* const lines = p.partials + (first + row) * c.d_v + 4 * lane;
    // This lane's split of 32.
    float2 mine{0.f, 0.f};
    if (lane < splits) mine = load_device_float2(stats + lane * step * 2);
    float4 x[kAhead][kQuads];
    load_lines(x, lines, step * c.d_v, splits);
    float top = lane < splits ? fmaxf(mine.x, kLowest) : kLowest;
    for (int s = lane + 32; s < splits; s += 32) top = fmaxf(top, load_device_float2(stats + s * step * 2).x);
#pragma unroll
    for (int by = 1; by < 32; by *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, by));
    float sum = 0.f, o[kQuads][4] = {};
#pragma unroll 1
    for (int some = 0; some < splits; some += kAhead) {
      if (some > 0 && some % 32 == 0) {
        mine = float2{0.f, 0.f};
        if (some + lane < splits) mine = load_device_float2(stats + (some + lane) * step * 2);
      }
      const float weight = mine.y == 0.f ? 0.f : exp2_fast(mine.x - top);
#pragma unroll
      for (int n = 0; n < kAhead; ++n) {
        const float by = __shfl_sync(0xffffffffu, weight, (some + n) % 32);
        const float part = __shfl_sync(0xffffffffu, mine.y, (some + n) % 32);
        if (by == 0.f) continue;
        sum += part * by;
#pragma unroll
        for (int quad = 0; quad < kQuads; ++quad) {
          o[quad][0] += x[n][quad].x * by;
          o[quad][1] += x[n][quad].y * by;
          o[quad][2] += x[n][quad].z * by;
          o[quad][3] += x[n][quad].w * by;
        }
      }
      load_lines(x, lines + (some + kAhead) * step * c.d_v, step * c.d_v, splits - some - kAhead);
    }
    write_merged(item, row, top, sum, o);
  }

  __device__ __forceinline__ void write_merged(const Sm90Item& item, int row, float top, float sum,
                                               const float (&o)[kQuads][4]) const {
    const RowPlace place = place_of(p, item.slot, item.tile * c.tile_q() + row);
    const RowFinish finish = finish_row(p, place.head, top, sum);
    Request request;
    request.index = item.request;
    request.q_row = item.q_row;
    constexpr int kBytes = c.o_dtype == DType::f32 ? 4 : 2;
    char* const line = p.o + query_offset(p.o_axes, request, place.i, place.head) * kBytes;
#pragma unroll
    for (int quad = 0; quad < kQuads; ++quad) {
      float y[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) y[n] = finish.factor == 0.f ? 0.f : o[quad][n] * finish.factor;
      write_pair<c.o_dtype, c.row_d_v, c.o_pairs>(line, 128 * quad + 4 * lane, y[0], y[1]);
      write_pair<c.o_dtype, c.row_d_v, c.o_pairs>(line, 128 * quad + 4 * lane + 2, y[2], y[3]);
    }
    if (p.lse && lane == 0) p.lse[query_offset(p.lse_axes, request, place.i, place.head)] = finish.lse;
  }

  __device__ __forceinline__ void merge(const Sm90Item& item) const {
    const int splits = splits_in_use(p, item.s_k, c.tile_k), unit = divide(item.number, p.splits);
    if (!is_last_split(unit, splits)) return;
    const int rows = min(item.s_q * static_cast<int>(p.pack.value) - item.tile * c.tile_q(), c.tile_q());
    const long long first = static_cast<long long>(unit) * static_cast<int>(p.splits.value) * a.extras.part_rows;
#pragma unroll 1
    for (int row = thread / 32; row < rows; row += kThreads / 32) merge_row(item, first, splits, row);
  }

  __device__ __forceinline__ void run() const {
    Sm90Item item = fetch_item(0);
    if (item.tile < 0) return;
    load_queries(item, 0);
#pragma unroll 1
    for (int count = 0;; ++count) {
      const Sm90Item next = fetch_item(count + 1);
      if (next.tile >= 0) load_queries(next, count + 1);
      if constexpr (c.merges_splits) barrier_wait(smem + at.part_full + 8 * (count & 1), (count >> 1) & 1);
      release_item(count);
      if constexpr (c.merges_splits) merge(item);
      if (next.tile < 0) break;
      item = next;
    }
  }
};

}  // namespace flash_attn::cuda
