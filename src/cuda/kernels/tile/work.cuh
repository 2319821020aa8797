// Which part of a run a block works on, and which keys that part needs: items, rows of a tile, and the walk over key blocks.
#pragma once

#include "cuda/kernels/configs.h"
#include "cuda/kernels/params.h"
#include "math/mask.h"
#include "math/seqlen.h"

namespace flash_attn::cuda {

__device__ __forceinline__ int clamp_int(int value, int low, int high) { return max(low, min(value, high)); }

// An item of the run: rows [tile * tile_q, ..) of one head slot of a request, and one of its key splits.
struct WorkItem {
  int request, slot, tile, split;
};

// Items of a section of heads lie together, the last query tiles first: under a causal mask they take longest.
__device__ __forceinline__ WorkItem decode_item(const ForwardParams& p, int n) {
  WorkItem item;
  const int unit = divide(n, p.splits);
  item.split = n - unit * static_cast<int>(p.splits.value);
  const int section = divide(unit, p.section_items), inside = unit - section * static_cast<int>(p.section_items.value);
  const int first = section * p.section;
  const Divisor heads = p.section_heads[first + p.section <= p.heads ? 0 : 1];
  const int row = divide(inside, heads);
  const int head = first + inside - row * static_cast<int>(heads.value);
  item.tile = static_cast<int>(p.tiles_q.value) - 1 - row;
  item.request = divide(head, p.request_heads);
  item.slot = head - item.request * p.slots;
  return item;
}

// Query and query head of a stacked row.
struct RowPlace {
  int i, head;
};
__device__ __forceinline__ RowPlace place_of(const ForwardParams& p, int slot, int row) {
  const int i = divide(row, p.pack);
  const int pack = static_cast<int>(p.pack.value);
  return {i, slot * pack + row - i * pack};
}

// The limits of a row's keys as 32-bit numbers: max_s_k fits.
struct Limits {
  int lo, hi, first;
};
template <KeyMask kMask>
__device__ __forceinline__ Limits limits_of(const MaskRule& rule, int i) {
  if constexpr (kMask == KeyMask::none) return {0, static_cast<int>(rule.s_k), 0};
  if constexpr (kMask == KeyMask::right) {
    // key_interval without what only the interval kind has: its division costs more than the rest.
    const long long right = rule.causal ? 0 : rule.window_right;
    return {0, static_cast<int>(right < 0 ? rule.s_k : clamp_to(i + rule.delta + right + 1, 0, rule.s_k)), 0};
  }
  const KeyInterval keys = key_interval(rule, i);
  return {static_cast<int>(keys.lo), static_cast<int>(keys.hi), static_cast<int>(keys.first)};
}

// Of a rule without left limits: query i does not see the keys from i + this on.
__device__ __forceinline__ int right_offset(const MaskRule& rule) {
  const long long right = rule.causal && rule.window_right != 0 ? 0 : rule.window_right;
  return right < 0 ? 0x40000000 : static_cast<int>(clamp_to(rule.delta + right + 1, -0x80000000ll, 0x40000000));
}

// The limits of a run of rows. All three bounds grow with the row, so the first and last row tell everything.
struct Reach {
  Limits first_row, last_row;

  // Does any row see a key of [j, j + count)?
  __device__ __forceinline__ bool touches(int j, int count) const {
    return (j < last_row.hi && j + count > first_row.lo) || j < last_row.first;
  }
  // Does every row see all of them?
  __device__ __forceinline__ bool covers(int j, int count) const {
    return (j >= last_row.lo && j + count <= first_row.hi) || j + count <= first_row.first;
  }
};
template <KeyMask kMask>
__device__ __forceinline__ Reach reach_of(const ForwardParams& p, const MaskRule& rule, int first_row, int last_row) {
  return {limits_of<kMask>(rule, divide(first_row, p.pack)), limits_of<kMask>(rule, divide(last_row, p.pack))};
}

// The key blocks of an item, from the last to the first: those of the rows' intervals, then those of the first keys below them.
struct BlockWalk {
  int last;     // last block of the intervals
  int count;    // blocks of the intervals
  int leading;  // blocks of the first keys that are not among them
  int low;      // first block of this item's split, which holds for both parts

  __device__ __forceinline__ int total() const { return count + leading; }
  __device__ __forceinline__ int block(int step) const { return step < count ? last - step : low + leading - 1 - (step - count); }
};

template <KeyMask kMask>
__device__ __forceinline__ BlockWalk walk_blocks(const Reach& reach, int tile_k, int key_begin, int key_end) {
  const int lo = max(reach.first_row.lo, key_begin), hi = min(reach.last_row.hi, key_end);
  BlockWalk walk;
  const int begin = lo / tile_k;
  const int end = (hi + tile_k - 1) / tile_k;
  walk.count = hi > lo ? end - begin : 0;
  walk.last = end - 1;
  walk.low = key_begin / tile_k;
  walk.leading = 0;
  if constexpr (kMask != KeyMask::interval) return walk;
  const int first_end = (min(reach.last_row.first, key_end) + tile_k - 1) / tile_k;
  const int leading_end = walk.count > 0 ? min(first_end, begin) : first_end;
  walk.leading = max(leading_end - walk.low, 0);
  return walk;
}

// The keys of an item's split; boundaries are multiples of the key tile.
struct KeyRange {
  int begin, end;
};
__device__ __forceinline__ int keys_of_split(const ForwardParams& p, int s_k, int tile_k) {
  if (p.split_keys != 0) return p.split_keys;
  const int blocks = (s_k + tile_k - 1) / tile_k;
  return (blocks + static_cast<int>(p.splits.value) - 1) / static_cast<int>(p.splits.value) * tile_k;
}
__device__ __forceinline__ KeyRange split_keys(const ForwardParams& p, int s_k, int tile_k, int split) {
  const int keys = keys_of_split(p, s_k, tile_k);
  const long long begin = static_cast<long long>(split) * keys;
  const bool is_last = split + 1 == static_cast<int>(p.splits.value);
  const long long end = is_last ? s_k : begin + keys;
  return {static_cast<int>(min(begin, static_cast<long long>(s_k))), static_cast<int>(min(end, static_cast<long long>(s_k)))};
}

// Splits that have keys, the first in any case.
__device__ __forceinline__ int splits_in_use(const ForwardParams& p, int s_k, int tile_k) {
  const int keys = max(keys_of_split(p, s_k, tile_k), 1);
  return clamp_int((s_k + keys - 1) / keys, 1, static_cast<int>(p.splits.value));
}

}  // namespace flash_attn::cuda
