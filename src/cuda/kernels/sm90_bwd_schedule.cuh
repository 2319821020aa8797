// Which key tile a block of the Hopper backward kernel owns, and which query tiles it walks over: the same answers for the
// producer, the consumers and the reducer of a block.
#pragma once

#include "cuda/kernels/ptx/tma.cuh"
#include "cuda/kernels/ptx/warpgroup.cuh"
#include "cuda/kernels/sm90_bwd_configs.h"
#include "cuda/kernels/tile/stat_rows.cuh"
#include "math/mask.h"

namespace flash_attn::cuda {

// Query tiles [first, last).
struct TileRange {
  int first, last;
  __device__ __forceinline__ bool holds(int m) const { return m >= first && m < last; }
};

// Where a request's row 0 lies in a map of the tensor. With lengths, rows past `length` read as zeros and are not written: the
// map's second and third row dimensions lead round the address space (see tensormap.h).
template <class Config>
__device__ __forceinline__ MapPoint map_point(int row, int length, int head, int batch, int batch_rows) {
  constexpr int map_rows = 1 << 30;
  if constexpr (Config::value.has_lengths)
    return {0, map_rows - length, batch * batch_rows + row + length, map_rows, head};
  else
    return {0, 0, head, batch, 0};
}

struct BackwardItem {
  int n;             // key tile
  int head_k, part;  // key head, and part of its group
  Request request;
  int head, heads;    // first query head of the part, and their number
  TileRange tiles;    // query tiles that see a key of the tile
  TileRange seen[2];  // that see a key of each consumer warp group
  __device__ __forceinline__ int steps() const { return (tiles.last - tiles.first) * heads; }
};

// Queries that see a key of [begin, end), a range inside the request, as tiles.
template <class Config>
__device__ __forceinline__ TileRange seeing_tiles(const Request& request, int begin, int end) {
  constexpr int tile_q = Config::value.tile_q;
  end = min(end, static_cast<int>(request.s_k));
  const int s_q = static_cast<int>(request.s_q);
  if (begin >= end || s_q == 0) return {0, 0};
  int lo = 0, hi = s_q;
  if constexpr (Config::value.mask != Sm90Mask::none) {
    // Limits grow with the key.
    lo = static_cast<int>(query_interval(request.rule, s_q, begin).lo);
    hi = static_cast<int>(query_interval(request.rule, s_q, end - 1).hi);
  }
  return lo < hi ? TileRange{lo / tile_q, (hi + tile_q - 1) / tile_q} : TileRange{0, 0};
}

template <class Config>
__device__ __forceinline__ BackwardItem find_item(const Sm90BackwardArguments& a) {
  constexpr Sm90BackwardConfig c = Config::value;
  BackwardItem item;
  const int per_section = a.section * a.tiles_k;
  const int section = blockIdx.x / per_section, inside = blockIdx.x - section * per_section;
  const int first_unit = section * a.section;
  const int units = min(a.section, a.units - first_unit);
  item.n = inside / units;  // under a causal mask the first keys are seen by most queries
  const int unit = first_unit + inside - item.n * units;
  const int pair = unit / a.group_parts;
  item.part = unit - pair * a.group_parts;
  const int batch = pair / a.h_k;
  item.head_k = pair - batch * a.h_k;
  const int begin = item.part * a.group / a.group_parts, end = (item.part + 1) * a.group / a.group_parts;
  item.head = item.head_k * a.group + begin;
  item.heads = end - begin;
  item.request = find_request<c.has_lengths>(a.params, batch);
  const int key = item.n * c.kTileK;
  item.seen[0] = seeing_tiles<Config>(item.request, key, key + 64);
  item.seen[1] = seeing_tiles<Config>(item.request, key + 64, key + 128);
  item.tiles = item.seen[0];
  if (item.tiles.first == item.tiles.last) item.tiles = item.seen[1];
  if (item.seen[1].first < item.seen[1].last) {
    item.tiles.first = min(item.tiles.first, item.seen[1].first);
    item.tiles.last = max(item.tiles.last, item.seen[1].last);
  }
  return item;
}

// What of an item the producer and the reducer need. One thread puts it into shared memory before roles part: with their few
// registers they could not work it out.
struct BackwardTask {
  int head, heads;
  TileRange tiles, seen[2];
  __device__ __forceinline__ int steps() const { return (tiles.last - tiles.first) * heads; }
};
constexpr int kBackwardTaskBytes = 4 * 16;

template <class Config>
__device__ __forceinline__ void put_task(unsigned smem, const Sm90BackwardArguments& a, const BackwardItem& item) {
  const Request& r = item.request;
  const int batch = static_cast<int>(r.index);
  const MapPoint q =
      map_point<Config>(static_cast<int>(r.q_row), static_cast<int>(r.s_q), 0, a.params.cu_seqlens_q ? 0 : batch, a.batch_rows_q);
  const MapPoint k =
      map_point<Config>(static_cast<int>(r.k_row), static_cast<int>(r.s_k), 0, a.params.cu_seqlens_k ? 0 : batch, a.batch_rows_k);
  store_shared4(smem, item.head, item.heads, item.tiles.first, item.tiles.last);
  store_shared4(smem + 16, item.seen[0].first, item.seen[0].last, item.seen[1].first, item.seen[1].last);
  store_shared4(smem + 32, q.row, q.outer0, k.row + item.n * Config::value.kTileK, k.outer0);
  store_shared4(smem + 48, batch, item.head_k, static_cast<int>(first_stat_row(a.params, r)), 0);
}

__device__ __forceinline__ BackwardTask get_task(unsigned smem) {
  BackwardTask task;
  load_shared4(smem, task.head, task.heads, task.tiles.first, task.tiles.last);
  load_shared4(smem + 16, task.seen[0].first, task.seen[0].last, task.seen[1].first, task.seen[1].last);
  return task;
}

// Points of the maps of q and k for the task's heads, as map_point made them.
template <class Config>
__device__ __forceinline__ MapPoint task_point(int row, int outer, int head, int batch) {
  if constexpr (Config::value.has_lengths)
    return {0, row, outer, 1 << 30, head};
  else
    return {0, row, head, batch, 0};
}

// The walk over the query tiles of one head after the other. Where order counts and later key tiles see fewer queries, it goes from
// the last tile to the first, so that blocks do not wait for each other from the start.
template <class Config>
struct QueryWalk {
  static constexpr bool kBackwards = Config::value.is_deterministic && Config::value.mask != Sm90Mask::none;
  TileRange tiles;
  int step = 0, m;

  __device__ __forceinline__ explicit QueryWalk(const TileRange& range) : tiles(range), m(first_tile()) {}

  __device__ __forceinline__ int first_tile() const { return kBackwards ? tiles.last - 1 : tiles.first; }
  __device__ __forceinline__ int slot() const { return step & 1; }
  __device__ __forceinline__ int phase() const { return (step >> 1) & 1; }
  // Returns whether the next head begins.
  __device__ __forceinline__ bool advance() {
    ++step;
    const bool wraps = kBackwards ? m-- == tiles.first : ++m == tiles.last;
    if (wraps) m = first_tile();
    return wraps;
  }
};

}  // namespace flash_attn::cuda
