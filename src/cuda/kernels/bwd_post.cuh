// After the backward's main kernel: the fp32 sums of dq, scaled, to dq. A warp takes 16 rows, whose sums lie in runs as
// accumulators hold them. Knows its parameters and config alone.
#pragma once

#include "cuda/kernels/backward_configs.h"
#include "cuda/kernels/tile/gradients.cuh"
#include "cuda/kernels/tile/stat_rows.cuh"

namespace flash_attn::cuda {

template <BackwardPostConfig C>
struct BackwardPost {
  static constexpr int kRuns = C.sums_d / 8;

  // Rows [row, row + 16) of the tile.
  static __device__ __forceinline__ void convert(const BackwardParams& p, const StatTile& tile, int row) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const long long i = tile.first + row + lane / 4;
    const float4* const sums = reinterpret_cast<const float4*>(p.dq_sums + (tile.stat_at + row) * C.sums_d) + lane;
    constexpr int kBytes = gradient_bytes(C.dq_dtype);
    char* const low = p.dq + query_offset(p.dq_axes, tile.request, i, tile.head) * kBytes;
    char* const high = low + 8 * p.dq_axes.row * kBytes;
    const bool has_low = i < tile.request.s_q, has_high = i + 8 < tile.request.s_q;
#pragma unroll 8
    for (int run = 0; run < kRuns; ++run) {
      const int column = run * 8 + lane % 4 * 2;
      const float4 x = sums[run * 32];
      if (has_low) put_pair<C.dq_dtype, C.d, C.pairs, C.accumulates>(low, column, x.x * p.scale, x.y * p.scale);
      if (has_high) put_pair<C.dq_dtype, C.d, C.pairs, C.accumulates>(high, column, x.z * p.scale, x.w * p.scale);
    }
  }

  static __device__ __forceinline__ void run(const BackwardParams& p, int item) {
    const StatTile tile = find_stat_tile<C.has_lengths>(p, item);
#pragma unroll 1
    for (int row = static_cast<int>(threadIdx.x / 32) * 16; row < p.stat_tile; row += C.kWarps * 16)
      if (tile.first + row < tile.request.s_q) convert(p, tile, row);
  }
};

template <BackwardPostConfig C>
__device__ __forceinline__ void backward_post(const BackwardParams& p) {
  const int items = p.b * p.slots * p.stat_tiles;
#pragma unroll 1
  for (int item = static_cast<int>(blockIdx.x); item < items; item += static_cast<int>(gridDim.x)) BackwardPost<C>::run(p, item);
}

}  // namespace flash_attn::cuda
