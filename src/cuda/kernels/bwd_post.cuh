// After the backward's main kernel: the fp32 sums of dq, scaled, to dq. A warp takes 16 rows by 32 columns at a time, whose sums
// lie in runs as accumulators hold them. Knows its parameters and config alone.
#pragma once

#include "cuda/kernels/backward_configs.h"
#include "cuda/kernels/tile/gradients.cuh"
#include "cuda/kernels/tile/stat_rows.cuh"

namespace flash_attn::cuda {

template <BackwardPostConfig C>
struct BackwardPost {
  static constexpr int kRuns = C.sums_d / 8;
  static constexpr int kGroups = (kRuns + 3) / 4;       // of four runs
  static constexpr int kUnits = C.tile / 16 * kGroups;  // of a tile
  static constexpr int kSteps = (kUnits + C.kWarps - 1) / C.kWarps;

  struct Sums {
    float4 run[4];
  };
  static __device__ __forceinline__ Sums load(const BackwardParams& p, const StatTile& tile, int unit) {
    const int row = unit / kGroups * 16, first_run = unit % kGroups * 4;
    const float4* const at = reinterpret_cast<const float4*>(p.dq_sums + (tile.stat_at + row) * C.sums_d) + threadIdx.x % 32;
    Sums sums;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const bool is_there = kRuns % 4 == 0 || first_run + n < kRuns;
      sums.run[n] = is_there ? at[(first_run + n) * 32] : make_float4(0, 0, 0, 0);
    }
    return sums;
  }

  static __device__ __forceinline__ void store(const BackwardParams& p, const StatTile& tile, int unit, const Sums& sums) {
    const int lane = static_cast<int>(threadIdx.x % 32), column = unit % kGroups * 32;
    const long long i = tile.first + unit / kGroups * 16 + lane / 4;
    constexpr int kBytes = gradient_bytes(C.dq_dtype);
    char* const row = p.dq + query_offset(p.dq_axes, tile.request, i, tile.head) * kBytes;
    float x[4], y[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) x[n] = sums.run[n].x * p.scale, y[n] = sums.run[n].y * p.scale;
    put_tiles<C.dq_dtype, C.d, C.accumulates, C.access>(row, column, x, y, i < tile.request.s_q);
#pragma unroll
    for (int n = 0; n < 4; ++n) x[n] = sums.run[n].z * p.scale, y[n] = sums.run[n].w * p.scale;
    put_tiles<C.dq_dtype, C.d, C.accumulates, C.access>(row + 8 * p.dq_axes.row * kBytes, column, x, y, i + 8 < tile.request.s_q);
  }

  static __device__ __forceinline__ void run(const BackwardParams& p, int item) {
    const StatTile tile = find_stat_tile<C.has_lengths>(p, item);
    if (tile.first >= tile.request.s_q) return;
    const int warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll 2
    for (int step = 0; step < kSteps; ++step) {
      const int unit = step * C.kWarps + warp;
      if (kUnits % C.kWarps != 0 && unit >= kUnits) break;
      store(p, tile, unit, load(p, tile, unit));
    }
  }
};

template <BackwardPostConfig C>
__device__ __forceinline__ void backward_post(const BackwardParams& p) {
  const int items = p.b * p.slots * p.stat_tiles;
#pragma unroll 1
  for (int item = static_cast<int>(blockIdx.x); item < items; item += static_cast<int>(gridDim.x)) BackwardPost<C>::run(p, item);
}

}  // namespace flash_attn::cuda
