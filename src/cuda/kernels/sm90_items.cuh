// What a block of the Hopper kernel works on: an item found by the loaders and published to the consumers through shared memory,
// and where its rows lie in tensor maps.
#pragma once

#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/ptx/tma.cuh"
#include "cuda/kernels/ptx/warpgroup.cuh"
#include "cuda/kernels/sm90_configs.h"
#include "cuda/kernels/tile/request.cuh"
#include "cuda/kernels/tile/work.cuh"

namespace flash_attn::cuda {

// A tile of query rows of one head slot, and the key blocks it meets: [first, last) and then [low, low + leading). tile < 0: no
// more.
struct Sm90Item {
  int tile, first, last, leading;
  int end[3], s_k;  // end[g]: one past the last block that warp group g sees anything of; `first` if it has no rows
  int slot, request, s_q, q_row;
  int number, low;
  int right;  // query i does not see the keys from i + right on (KeyMask::right)
};

template <class Config>
__device__ __forceinline__ void find_blocks(const ForwardParams& p, const Request& request, const WorkItem& work, Sm90Item& item) {
  constexpr Sm90ForwardConfig c = Config::value;
  const int rows = item.s_q * static_cast<int>(p.pack.value), row0 = work.tile * c.tile_q();
  KeyRange range{0, item.s_k};
  if constexpr (c.has_splits) range = split_keys(p, range.end, c.tile_k, work.split);
  const Reach reach = reach_of<c.mask>(p, request.rule, row0, min(row0 + c.tile_q(), rows) - 1);
  const BlockWalk walk = walk_blocks<c.mask>(reach, c.tile_k, range.begin, range.end);
  item.right = c.mask == KeyMask::right ? right_offset(request.rule) : 0;
  item.last = walk.last + 1;
  item.first = item.last - walk.count;
  item.leading = walk.leading;
  item.low = walk.low;
  if (walk.count == 0) {
    // The first keys alone; or no visible key, and one block past the end keeps the pipeline free of special cases.
    item.first = walk.leading > 0 ? walk.low : (item.s_k + c.tile_k - 1) / c.tile_k;
    item.last = item.first + max(walk.leading, 1);
    item.leading = 0;
  }
#pragma unroll
  for (int g = 0; g < c.groups; ++g) {
    item.end[g] = item.last;
    const int row = row0 + 64 * g;
    if (row >= rows) {
      item.end[g] = item.first;
    } else if (c.mask != KeyMask::none && c.mask_warps() == 0 && walk.count > 0) {
      // No more blocks are passed over than `stages`, with the one that may be passed over at the end of the item before (walk in
      // sm90_fwd.cuh): what comes behind them could not be loaded before values are released.
      constexpr int most = c.mask == KeyMask::interval ? c.stages - 1 : c.stages;
      const int hi = min(limits_of<c.mask>(request.rule, divide(min(row + 64, rows) - 1, p.pack)).hi, range.end);
      item.end[g] = clamp_int((hi + c.tile_k - 1) / c.tile_k, max(item.first + 1, item.last - most), item.last);
    }
  }
}

// May an item turn out to have nothing to do?
template <class Config>
constexpr bool kSkipsItems = Config::value.has_lengths || Config::value.merges_splits;

// tile stays -1 if the item lies past its request's rows, or its keys.
template <class Config>
__device__ __forceinline__ Sm90Item find_item(const ForwardParams& p, int number, Request& request) {
  constexpr Sm90ForwardConfig c = Config::value;
  const WorkItem work = decode_item(p, number);
  request = find_request<c.has_lengths>(p, work.request);
  Sm90Item item{};
  item.number = number;
  item.slot = work.slot;
  item.request = work.request;
  item.s_q = static_cast<int>(request.s_q);
  item.s_k = static_cast<int>(request.s_k);
  item.q_row = static_cast<int>(request.q_row);
  item.tile = work.tile * c.tile_q() < item.s_q * static_cast<int>(p.pack.value) ? work.tile : -1;
  if constexpr (c.merges_splits) {
    if (work.split >= splits_in_use(p, item.s_k, c.tile_k)) item.tile = -1;
  }
  if (!kSkipsItems<Config> || item.tile >= 0) find_blocks<Config>(p, request, work, item);
  return item;
}

__device__ __forceinline__ void publish_item(unsigned slot, const Sm90Item& item) {
  store_shared4(slot, item.tile, item.first, item.last, item.leading);
  store_shared4(slot + 16, item.end[0], item.end[1], item.end[2], item.s_k);
  store_shared4(slot + 32, item.slot, item.request, item.s_q, item.q_row);
  store_shared4(slot + 48, item.number, item.low, item.right, 0);
}
__device__ __forceinline__ Sm90Item read_item(unsigned slot) {
  Sm90Item item;
  int unused;
  load_shared4(slot, item.tile, item.first, item.last, item.leading);
  load_shared4(slot + 16, item.end[0], item.end[1], item.end[2], item.s_k);
  load_shared4(slot + 32, item.slot, item.request, item.s_q, item.q_row);
  load_shared4(slot + 48, item.number, item.low, item.right, unused);
  return item;
}

// The request's query side and masks, from an item.
__device__ __forceinline__ Request request_of(const ForwardParams& p, const Sm90Item& item) {
  Request request;
  request.index = item.request;
  request.q_row = item.q_row;
  request.s_q = item.s_q;
  request.s_k = item.s_k;
  find_mask(p, request);
  return request;
}

// Where a request's first row lies in a map. Plain maps are (column, row, head, batch, 1). With lengths they are (column, row,
// start, wrap, head): start counts the same rows as row, and wrap steps so far that kMapRows of it lead back round the address
// space. So row kMapRows - length + j, start first + length, wrap kMapRows is the address of row first + j; and it lies past the
// map's kMapRows rows, so that reads give zeros and writes are dropped, exactly when j >= length.
constexpr int kMapRows = 1 << 30;

template <bool kHasLengths>
__device__ __forceinline__ MapPoint first_row(int row, int length, int head, int batch, int batch_rows) {
  if constexpr (kHasLengths)
    return {0, kMapRows - length, batch * batch_rows + row + length, kMapRows, head};
  else
    return {0, 0, head, batch, 0};
}

// The barriers as everyone counts on them (sm90_fwd.cuh).
template <class Config>
__device__ __forceinline__ void init_barriers(unsigned smem) {
  constexpr Sm90ForwardConfig c = Config::value;
  constexpr Sm90Layout at(c);
  for (int i = 0; i < 2 * c.groups; ++i) {
    barrier_init(smem + at.q_full + 8 * i, !c.gathers_q ? 1 : (c.row_warps ? c.kRowThreads : c.loaders()));
    barrier_init(smem + at.q_empty + 8 * i, 1);
  }
  for (int i = 0; i < c.stages; ++i) {
    for (const int full : {at.k_full, at.v_full}) barrier_init(smem + full + 8 * i, c.gathers_k ? c.loaders() : 1);
    for (const int empty : {at.k_empty, at.v_empty}) barrier_init(smem + empty + 8 * i, c.groups);
  }
  for (int i = 0; i < 2; ++i) {
    barrier_init(smem + at.item_full + 8 * i, 1);
    barrier_init(smem + at.item_empty + 8 * i, 4 * c.groups + c.mask_warps() + (c.row_warps ? c.kRowThreads / 32 : 0));
    if constexpr (c.merges_splits) barrier_init(smem + at.part_full + 8 * i, 4 * c.groups);
  }
  if constexpr (c.mask_warps() > 0) {
    for (int i = 0; i < at.kMaskStages; ++i) {
      barrier_init(smem + at.mask_full + 8 * i, c.mask_warps());
      barrier_init(smem + at.mask_empty + 8 * i, 4 * c.groups);
    }
  }
  barrier_init_fence();
}

}  // namespace flash_attn::cuda
