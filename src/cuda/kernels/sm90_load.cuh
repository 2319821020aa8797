// Warp group 0 of the Hopper kernel: draws items, publishes them, and brings Q, K and V into shared memory, by tensor maps where
// they can describe the tensors and by the threads' own copies elsewhere. Knows nothing of what the consumers compute.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/ptx/tma.cuh"
#include "cuda/kernels/ptx/warpgroup.cuh"
#include "cuda/kernels/sm90_configs.h"
#include "cuda/kernels/sm90_items.cuh"
#include "cuda/kernels/sm90_pages.cuh"
#include "cuda/kernels/tile/loose_rows.cuh"
#include "cuda/kernels/tile/rows.cuh"

namespace flash_attn::cuda {

// The q buffer of the count-th item of a block, and the phase of its barriers.
template <class Config>
__device__ __forceinline__ int q_slot(int count) {
  return Config::value.q_buffers == 2 ? count & 1 : 0;
}
template <class Config>
__device__ __forceinline__ int q_phase(int count) {
  return Config::value.q_buffers == 2 ? (count >> 1) & 1 : count & 1;
}

constexpr int kLoadersBarrier = 15;

constexpr int clamp_constant(int bytes) { return bytes < 0 ? 0 : (bytes > 128 ? 128 : bytes); }

// By `kThreads` threads, slabs [kSlab, ..) of a tile of `kRows` rows with `kColumns` columns in memory; next(row, &address) as in
// copy_rows.
template <int kRows, int kColumns, int kSlabs, int kThreads, int kAccess, int kSlab = 0, class Next>
__device__ __forceinline__ void gather_rows(unsigned target, unsigned thread, Next&& next) {
  if constexpr (kSlab < kSlabs) {
    constexpr int kValid = clamp_constant((kColumns - kSlab * 64) * 2);
    copy_rows<kRows, 128, kValid, kThreads, kAccess>(target + kSlab * kRows * 128, forget(thread),
                                                     [&](int row, const char*& address) {
                                                       const bool is_there = next(row, address);
                                                       address += kSlab * 128;
                                                       return is_there;
                                                     });
    gather_rows<kRows, kColumns, kSlabs, kThreads, kAccess, kSlab + 1>(target, thread, next);
  }
}

// The same, of rows that may begin at any element of a span of memory.
template <class Config, int kRows, int kColumns, int kSlabs, int kThreads, class Next>
__device__ __forceinline__ void gather_span(unsigned target, unsigned thread, const MemorySpan& span, Next&& next) {
  constexpr Sm90ForwardConfig c = Config::value;
  if constexpr (c.shifts_units)
    copy_loose_rows<kRows, kColumns, kSlabs, kThreads, c.access>(target, thread, span, next);
  else
    gather_rows<kRows, kColumns, kSlabs, kThreads, c.access>(target, thread, next);
}

// Queries of warp group `group` of an item.
template <class Config, int kThreads>
__device__ __forceinline__ void gather_queries(const ForwardParams& p, const Request& request, const Sm90Item& item,
                                               unsigned target, unsigned thread, int group) {
  constexpr Sm90ForwardConfig c = Config::value;
  const int rows = item.s_q * static_cast<int>(p.pack.value), first = item.tile * c.tile_q() + group * 64;
  // All heads of the request's rows.
  const int heads = p.slots * static_cast<int>(p.pack.value);
  const MemorySpan span{p.q + query_offset(p.q_axes, request, 0, 0) * 2,
                        p.q + (query_offset(p.q_axes, request, item.s_q - 1, heads - 1) + c.row_d) * 2};
  gather_span<Config, 64, c.row_d, c.slabs(), kThreads>(target, thread, span, [&](int row, const char*& address) {
    const RowPlace place = place_of(p, item.slot, min(first + row, rows - 1));
    address = p.q + query_offset(p.q_axes, request, place.i, place.head) * 2;
    return first + row < rows;
  });
}

template <class Config>
struct Sm90Loader {
  static constexpr Sm90ForwardConfig c = Config::value;
  static constexpr Sm90Layout at{c};
  static constexpr int kLoaders = c.loaders();
  static constexpr bool kMapsHaveLengths = c.has_lengths || c.is_paged;
  static constexpr unsigned long long kKeyPolicy = c.reads_once ? kEvictFirst : kEvictLast;

  const Sm90ForwardArguments& a;
  const ForwardParams& p;
  unsigned smem;
  Sm90Item item;
  Request request;
  KeyRows keys;
  PageBoxes boxes;
  int head;                    // of k and v (is_paged)
  int next_k = 0, next_v = 0;  // tiles loaded, counted to twice the stages: stage and phase in one register
  // Copies by threads count as arrived one tile late, so that two are on their way: the barriers of the tile before.
  unsigned pending = 0;
  int pending_barriers = 0;

  __device__ __forceinline__ Sm90Loader(const Sm90ForwardArguments& arguments, unsigned shared)
      : a(arguments), p(arguments.params), smem(shared) {}

  // ---- Items ----

  // The next item: the counter's, or this block's turn in a round that goes forth and a round that goes back, so that every block
  // gets long and short ones alike.
  __device__ __forceinline__ int draw(int number) const {
    const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    if constexpr (c.is_dynamic) return static_cast<int>(atomicAdd(a.extras.counter, 1u)) + blocks;
    if constexpr (c.mask == KeyMask::none) return number + blocks;
    const int next = (number / blocks + 1) * blocks;
    return next + ((next / blocks) & 1 ? blocks - 1 - block : block);
  }

  __device__ __forceinline__ void synchronize() const {
    if constexpr (kLoaders > 1) named_sync(kLoadersBarrier, kLoaders);
  }

  // The first item from `number` on that has rows, published in the count-th slot.
  __device__ __forceinline__ void open(int& number, int count) {
    const int slot = count & 1;
    if (threadIdx.x == 0) {
      item = Sm90Item{-1};
      while (number < p.items) {
        item = find_item<Config>(p, number, request);
        if (!kSkipsItems<Config> || item.tile >= 0) break;
        number = draw(number);
      }
      barrier_wait(smem + at.item_empty + 8 * slot, ((count >> 1) & 1) ^ 1);
      publish_item(smem + at.items + slot * at.kItemBytes, item);
      barrier_arrive(smem + at.item_full + 8 * slot);
    }
    if constexpr (kLoaders > 1) {
      synchronize();
      item = read_item(smem + at.items + slot * at.kItemBytes);
      request = find_request<c.has_lengths>(p, item.request);
    }
    if constexpr (c.gathers_k) keys = key_rows(p, request, divide(item.slot, p.slot_group), 2);
    if constexpr (c.is_paged) boxes.forget_request(), head = divide(item.slot, p.slot_group);
  }

  // ---- Copies by threads ----

  __device__ __forceinline__ void arrive_pending() {
    fence_async_proxy();
    for (int n = 0; n < pending_barriers; ++n) barrier_arrive(pending + 8 * n);
  }
  __device__ __forceinline__ void arrive_late(unsigned barrier, int barriers) {
    copy_async_commit();
    copy_async_wait<1>();
    if (pending) arrive_pending();
    pending = barrier;
    pending_barriers = barriers;
  }
  __device__ __forceinline__ void flush() {
    copy_async_wait<0>();
    if (pending) arrive_pending();
    pending = 0;
  }

  template <bool kIsValue>
  __device__ __forceinline__ void gather_keys(unsigned target, int block) {
    const Axes& axes = kIsValue ? p.v_axes : p.k_axes;
    const char* const base = kIsValue ? keys.v : keys.k;
    const int j0 = block * c.tile_k;
    constexpr int kColumns = kIsValue ? c.row_d_v : c.row_d, kSlabs = kIsValue ? c.slabs_v() : c.slabs();
    const auto next = [&](int row, const char*& address) {
      const int j = j0 + row;
      if (p.key_source == KeySource::paged) {
        const int2 slot = find_slot(p, request, j);
        address = base + (slot.x * axes.batch + slot.y * axes.row) * 2;
      } else {
        address = base + j * axes.row * 2;
      }
      return j < item.s_k;
    };
    const long long last = p.key_source == KeySource::paged
                               ? (p.num_pages - 1) * axes.batch + (static_cast<int>(p.page_size.value) - 1) * axes.row
                               : (item.s_k - 1) * axes.row;
    gather_span<Config, c.tile_k, kColumns, kSlabs, 128>(target, threadIdx.x, {base, base + (last + kColumns) * 2}, next);
  }

  // ---- Tiles ----

  // Boxes of rows, each within a page: a lane issues the one that it holds, of 32 at a time.
  template <bool kIsValue>
  __device__ __forceinline__ void load_pages(unsigned target, unsigned full, int block) {
    constexpr int kSlabs = kIsValue ? c.slabs_v() : c.slabs();
    const int box_rows = a.extras.box_rows, end = (block + 1) * a.extras.tile_boxes;
#pragma unroll 1
    for (int first = block * a.extras.tile_boxes; first < end; first += 32) {
      const int count = min(end - first, 32);
      boxes.reach(p, request, box_rows, a.extras.batch_rows_k, first, count);
      const int box = boxes.own();
      if (box < first || box >= first + count) continue;
      MapPoint from = first_row<true>(boxes.start, clamp_int(item.s_k - box * box_rows, 0, box_rows), head, 0, 0);
      const unsigned to = target + (box - block * a.extras.tile_boxes) * box_rows * 128;
      for (int slab = 0; slab < kSlabs; ++slab) {
        from.column = slab * c.kSlab;
        tma_load(to + slab * c.tile_k * 128, kIsValue ? &a.v : &a.k, full, from, kKeyPolicy);
      }
    }
  }

  template <bool kIsValue>
  __device__ __forceinline__ void load_rows(unsigned target, unsigned full, int block) const {
    constexpr int kSlabs = kIsValue ? c.slabs_v() : c.slabs();
    const int head = divide(item.slot, p.slot_group);
    MapPoint from = first_row<kMapsHaveLengths>(static_cast<int>(request.k_row), item.s_k, head, static_cast<int>(request.k_batch),
                                                a.extras.batch_rows_k);
    from.row += block * c.tile_k;
    for (int slab = 0; slab < kSlabs; ++slab) {
      from.column = slab * c.kSlab;
      tma_load(target + slab * c.tile_k * 128, kIsValue ? &a.v : &a.k, full, from, kKeyPolicy);
    }
  }

  template <bool kIsValue>
  __device__ __forceinline__ void load_keys(int block) {
    constexpr int kBytes = kIsValue ? at.v_tile : at.k_tile;
    int& next = kIsValue ? next_v : next_k;
    const int phase = next >= c.stages, stage = next - (phase ? c.stages : 0);
    const unsigned full = smem + (kIsValue ? at.v_full : at.k_full) + 8 * stage;
    const unsigned target = smem + (kIsValue ? at.v : at.k) + stage * kBytes;
    if constexpr (c.gathers_k) {
      barrier_wait(smem + (kIsValue ? at.v_empty : at.k_empty) + 8 * stage, phase ^ 1);
      gather_keys<kIsValue>(target, block);
      arrive_late(full, 1);
    } else if (c.is_paged ? threadIdx.x / 32 == (kIsValue ? 1 : 0) : threadIdx.x == 0) {
      // Boxes of pages take a warp each for keys and values: one alone would be slower than the products.
      barrier_wait(smem + (kIsValue ? at.v_empty : at.k_empty) + 8 * stage, phase ^ 1);
      if ((threadIdx.x & 31) == 0) barrier_arrive_expect(full, kBytes);
      if constexpr (c.is_paged) {
        __syncwarp();
        load_pages<kIsValue>(target, full, block);
      } else {
        load_rows<kIsValue>(target, full, block);
      }
    }
    next = next + 1 == 2 * c.stages ? 0 : next + 1;
  }

  __device__ __forceinline__ void load_queries(int count) {
    const int buffer = q_slot<Config>(count);
    const unsigned target = smem + at.q + buffer * at.q_all;
    const int bars = 8 * buffer * c.groups;
    // 32 registers do not hold the addresses of all groups at once.
    constexpr int kUnrolled = c.gathers_q ? c.groups : 1;
#pragma unroll(kUnrolled)
    for (int g = 0; g < c.groups; ++g) {
      if (!c.gathers_q && threadIdx.x != 0) continue;
      barrier_wait(smem + at.q_empty + bars + 8 * g, q_phase<Config>(count) ^ 1);
      if constexpr (c.gathers_q) {
        gather_queries<Config, 128>(p, request, item, target + g * at.q_group, threadIdx.x, g);
      } else {
        const unsigned full = smem + at.q_full + bars + 8 * g;
        barrier_arrive_expect(full, at.q_group);
        MapPoint from =
            first_row<kMapsHaveLengths>(item.q_row, item.s_q, item.slot, p.cu_seqlens_q ? 0 : item.request, a.extras.batch_rows_q);
        from.row += item.tile * c.tile_q() + g * 64;
        for (int slab = 0; slab < c.slabs(); ++slab) {
          from.column = slab * c.kSlab;
          tma_load(target + g * at.q_group + slab * 64 * 128, &a.q, full, from, kEvictFirst);
        }
      }
    }
    if constexpr (c.gathers_q) arrive_late(smem + at.q_full + bars, c.groups);
  }

  // Q beside tiles that come by map: nothing else would let it arrive.
  __device__ __forceinline__ void settle_queries() {
    if (c.gathers_q && !c.row_warps && !c.gathers_k) flush();
  }

  __device__ __forceinline__ void load_item(int count) {
    load_keys<false>(item.last - 1);
    if constexpr (!c.row_warps) load_queries(count);
  }

  __device__ __forceinline__ void run() {
    int number = static_cast<int>(blockIdx.x), count = 0;
    while (true) {
      open(number, count);
      if (item.tile < 0) break;
      load_item(count);
      ++count;
      // Draw the next item while this one's loads are in flight.
      if (threadIdx.x == 0) number = draw(number);
      const int steps = item.last - item.first + item.leading;
      int block = item.last - 1;
#pragma unroll 1
      for (int step = 1; step < steps; ++step) {
        const int below = c.mask == KeyMask::interval && block == item.first ? item.low + item.leading - 1 : block - 1;
        load_keys<false>(below);
        if (step == 1) settle_queries();
        load_keys<true>(block);
        block = below;
      }
      load_keys<true>(block);
      if (steps == 1) settle_queries();
    }
    if constexpr (kLoaders == 128) flush();
    // The last block to finish leaves the counters zero for the next launch.
    unsigned* const counter = a.extras.counter;
    if (c.is_dynamic && threadIdx.x == 0 && atomicAdd(counter + 1, 1u) == gridDim.x - 1) counter[0] = 0, counter[1] = 0;
  }
};

}  // namespace flash_attn::cuda
