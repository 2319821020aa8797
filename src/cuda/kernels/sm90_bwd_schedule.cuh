// Which key tile a block of the Hopper backward kernel owns, and which query tiles it walks over: the same answers for the
// producer, the consumers and the carriers of a block.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/order.cuh"
#include "cuda/kernels/ptx/tma.cuh"
#include "cuda/kernels/ptx/warpgroup.cuh"
#include "cuda/kernels/sm90_bwd_configs.h"
#include "cuda/kernels/tile/stat_rows.cuh"
#include "math/mask.h"

namespace flash_attn::cuda {

constexpr long long kFarAway = 1LL << 30;  // diagonals further away are alike

// Query tiles [first, last).
struct TileRange {
  int first, last;
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
  int n;       // key tile
  int head_k;  // key head; its group's query heads are taken one after the other
  Request request;
  TileRange tiles;  // query tiles that see a key of the tile
};

// Queries that see a key of [begin, end), a range inside the request, as tiles.
template <class Config>
__device__ __forceinline__ TileRange seeing_tiles(const Request& request, int begin, int end) {
  constexpr int tile_q = Config::value.tile_q;
  end = min(end, static_cast<int>(request.s_k));
  const int s_q = static_cast<int>(request.s_q);
  if (begin >= end || s_q == 0) return {0, 0};
  int lo = 0, hi = s_q;
  if constexpr (Config::value.mask != KeyMask::none) {
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
  const int batch = unit / a.h_k;
  item.head_k = unit - batch * a.h_k;
  item.request = find_request<c.has_lengths>(a.params, batch);
  const int key = item.n * c.tile_k();
  item.tiles = seeing_tiles<Config>(item.request, key, key + c.tile_k());
  return item;
}

// The same in all lanes, and the compiler may know it.
__device__ __forceinline__ unsigned uniform(unsigned x) { return __shfl_sync(0xffffffffu, x, 0); }
__device__ __forceinline__ int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

// An item in shared memory, put there by one thread before roles part: producer and carriers, with their few registers, could not
// work it out, and the consumers have none left to keep it over their loop.
//   0   head, heads, tiles
//   16  points of the maps: row and next coordinate of q's, of k's
//   32  batch, key head, first row of the statistics, key tile
//   48  keys of the request, its diagonal

template <class Config>
__device__ __forceinline__ void put_task(unsigned task, const Sm90BackwardArguments& a, const BackwardItem& item) {
  const Request& r = item.request;
  const int batch = static_cast<int>(r.index);
  const MapPoint q =
      map_point<Config>(static_cast<int>(r.q_row), static_cast<int>(r.s_q), 0, a.params.cu_seqlens_q ? 0 : batch, a.batch_rows_q);
  const MapPoint k =
      map_point<Config>(static_cast<int>(r.k_row), static_cast<int>(r.s_k), 0, a.params.cu_seqlens_k ? 0 : batch, a.batch_rows_k);
  store_shared4(task, item.head_k * a.group, a.group, item.tiles.first, item.tiles.last);
  store_shared4(task + 16, q.row, q.outer0, k.row + item.n * Config::value.tile_k(), k.outer0);
  store_shared4(task + 32, batch, item.head_k, static_cast<int>(first_stat_row(a.params, r)), item.n);
  store_shared_int2(task + 48, static_cast<int>(r.s_k), static_cast<int>(clamp_to(r.rule.delta, -kFarAway, kFarAway)));
}

struct TaskHeads {
  int first, count;
  TileRange tiles;
  __device__ __forceinline__ int steps() const { return (tiles.last - tiles.first) * count; }
};
__device__ __forceinline__ TaskHeads get_heads(unsigned task) {
  TaskHeads heads;
  load_shared4(task, heads.first, heads.count, heads.tiles.first, heads.tiles.last);
  return heads;
}
__device__ __forceinline__ int get_key_tile(unsigned task) { return load_shared_int2(task + 40).y; }
// The request has keys in the tile at all.
template <class Config>
__device__ __forceinline__ bool has_keys(unsigned task) {
  return get_key_tile(task) * Config::value.tile_k() < load_shared_int2(task + 48).x;
}
__device__ __forceinline__ int get_stat_row(unsigned task) { return load_shared_int2(task + 40).x; }

// The first key tile that queries of tile m see, under masks without chunks. In 32 bits: who asks has few registers, and what is
// further away than kFarAway makes no difference.
template <class Config>
__device__ __forceinline__ int first_key_tile(unsigned task, const Sm90BackwardArguments& a, int m) {
  if constexpr (Config::value.mask != KeyMask::interval) return 0;
  const int2 request = load_shared_int2(task + 48);
  const int diagonal = m * Config::value.tile_q + request.y;
  int lo = 0;
  if (a.params.window_left >= 0) lo = max(lo, diagonal - static_cast<int>(min(a.params.window_left, kFarAway)));
  return min(lo, request.x) / Config::value.tile_k();
}

// Sums of a query tile are added to in the order of the key tiles: its counter moves by one for each warp group that has added.
template <class Config>
__device__ __forceinline__ void await_key_tiles(unsigned task, const Sm90BackwardArguments& a, const unsigned* turn, int m) {
  const unsigned before = Config::value.dq_groups() * (get_key_tile(task) - first_key_tile<Config>(task, a, m));
  while (load_acquire(turn) < before) {
  }
}

template <class Config>
__device__ __forceinline__ MapPoint task_point(unsigned task, int at, int head) {
  const int2 row = load_shared_int2(task + 16 + at), batch = load_shared_int2(task + 32);
  if constexpr (Config::value.has_lengths)
    return {0, row.x, row.y, 1 << 30, head};
  else
    return {0, row.x, head, batch.x, 0};
}
template <class Config>
__device__ __forceinline__ MapPoint query_point(unsigned task, int head) {
  return task_point<Config>(task, 0, head);
}
template <class Config>
__device__ __forceinline__ MapPoint key_point(unsigned task) {
  return task_point<Config>(task, 8, load_shared_int2(task + 32).y);
}

// The walk over the query tiles of one head after the other. Where order counts and later key tiles see fewer queries, it goes from
// the last tile to the first, so that blocks do not wait for each other from the start.
template <class Config>
struct QueryWalk {
  static constexpr bool kBackwards = Config::value.is_deterministic && Config::value.mask != KeyMask::none;
  int step = 0, m, end;  // this tile, and the one that the head's last tile is followed by

  __device__ __forceinline__ explicit QueryWalk(unsigned task) {
    const TaskHeads heads = get_heads(task);
    m = first_tile(heads);
    end = kBackwards ? heads.tiles.first - 1 : heads.tiles.last;
  }

  static __device__ __forceinline__ int first_tile(const TaskHeads& heads) {
    return kBackwards ? heads.tiles.last - 1 : heads.tiles.first;
  }
  // Where the tile of q lies, and how often that place was used before; and those of dout.
  __device__ __forceinline__ int slot() const { return step & 1; }
  __device__ __forceinline__ int phase() const { return (step >> 1) & 1; }
  __device__ __forceinline__ int dout_slot() const { return Config::value.dout_stages == 2 ? step & 1 : 0; }
  __device__ __forceinline__ int dout_phase() const { return Config::value.dout_stages == 2 ? (step >> 1) & 1 : step & 1; }
  // Returns whether the next head begins.
  __device__ __forceinline__ bool advance(unsigned task) {
    ++step;
    m += kBackwards ? -1 : 1;
    const bool wraps = m == end;
    if (wraps) m = first_tile(get_heads(task));
    return wraps;
  }
};

}  // namespace flash_attn::cuda
