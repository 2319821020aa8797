// Where a request's rows lie in the backward's workspace (see backward_params.h).
#pragma once

#include "cuda/kernels/backward_params.h"
#include "cuda/kernels/tile/request.cuh"

namespace flash_attn::cuda {

// Of a request whose first row is q_row of a packed q; `tiles` of `tile` rows has the longest.
__device__ __forceinline__ long long first_stat_row(bool is_packed, long long q_row, long long request, long long tile, int tiles) {
  // Fits 32 bits (check_backward_features), which divide without a call.
  if (is_packed) return static_cast<unsigned>(q_row + request * tile) / static_cast<unsigned>(tile) * tile;
  return request * tiles * tile;
}
__device__ __forceinline__ long long first_stat_row(const BackwardParams& p, const Request& request) {
  return first_stat_row(p.cu_seqlens_q != nullptr, request.q_row, request.index, p.stat_tile, p.stat_tiles);
}

// A tile of a request's rows, as the small kernels share them out: items run over heads, then tiles, then requests, as heads of a
// row are neighbours in memory.
struct StatTile {
  Request request;
  int head, first;    // first row
  long long stat_at;  // of that row, in the statistics
};
template <bool kHasLengths>
__device__ __forceinline__ StatTile find_stat_tile(const BackwardParams& p, int item) {
  StatTile tile;
  const int unit = item / p.slots;
  const int r = unit / p.stat_tiles;
  tile.head = item - unit * p.slots;
  tile.first = (unit - r * p.stat_tiles) * p.stat_tile;
  tile.request = find_request<kHasLengths>(p, r);
  tile.stat_at = tile.head * p.stat_rows + first_stat_row(p, tile.request) + tile.first;
  return tile;
}

}  // namespace flash_attn::cuda
