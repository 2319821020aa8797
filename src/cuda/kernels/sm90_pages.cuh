// Where the boxes of a paged cache's key tiles lie, looked up by a warp for 32 boxes at once: tiles are walked from the last key
// down, so that one read of the block table serves many of them. Knows nothing of shared memory or of who loads.
#pragma once

#include "cuda/kernels/params.h"
#include "cuda/kernels/tile/rows.cuh"

namespace flash_attn::cuda {

struct PageBoxes {
  static constexpr int kNone = 1 << 30;

  int first = kNone;  // box that lane 0 holds
  int start = 0;      // first row of this lane's box, counted over all pages

  // Whatever was held is another request's.
  __device__ __forceinline__ void forget_request() { first = kNone; }

  // Afterwards the lanes hold boxes [box, box + count), count <= 32, and as many below them as there is room for.
  __device__ __forceinline__ void reach(const ForwardParams& p, const Request& request, int box_rows, int page_rows, int box,
                                        int count) {
    if (box >= first && box + count <= first + 32) return;
    first = max(box + count - 32, 0);
    const int2 slot = find_slot(p, request, own() * box_rows);
    start = slot.x * page_rows + slot.y;
  }

  // The box that this lane holds.
  __device__ __forceinline__ int own() const { return first + static_cast<int>(threadIdx.x & 31); }
};

}  // namespace flash_attn::cuda
