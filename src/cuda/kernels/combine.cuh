// Merges the partial results of key splits, in split order, and finishes the rows; the sink joins here, once. One warp per row.
// Knows the layout that sm80_fwd.cuh writes (params.h), nothing of the host.
#pragma once

#include "cuda/kernels/configs.h"
#include "cuda/kernels/params.h"
#include "cuda/kernels/tile/request.cuh"
#include "cuda/kernels/tile/scores.cuh"
#include "cuda/kernels/tile/work.cuh"
#include "cuda/kernels/tile/write.cuh"

namespace flash_attn::cuda {

template <CombineConfig C>
__device__ __forceinline__ void combine_row(const ForwardParams& p, const Request& request, int first_item, int row,
                                            RowPlace place) {
  constexpr int kPairs = (C.d_v + 63) / 64;  // column pairs of a lane
  constexpr long long kPartial = static_cast<long long>(C.tile_q) * (C.d_v + 2);
  const int lane = static_cast<int>(threadIdx.x) & 31, splits = static_cast<int>(p.splits.value);
  const float* const partial = p.partials + first_item * kPartial;
  const float* const tops = partial + static_cast<long long>(C.tile_q) * C.d_v + row;
  const float* const sums = tops + C.tile_q;

  float top = -__int_as_float(0x7f7fffff);
  for (int s = 0; s < splits; ++s) top = fmaxf(top, tops[s * kPartial]);
  float sum = 0, o[kPairs][2] = {};
  for (int s = 0; s < splits; ++s) {
    const float split_sum = sums[s * kPartial];
    if (split_sum == 0) continue;
    const float weight = exp2_fast(tops[s * kPartial] - top);
    sum += split_sum * weight;
    const float* const line = partial + s * kPartial + static_cast<long long>(row) * C.d_v;
#pragma unroll
    for (int n = 0; n < kPairs; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = 64 * n + 2 * lane + e;
        if (column < C.d_v) o[n][e] += line[column] * weight;
      }
    }
  }
  const RowFinish finish = finish_row(p, place.head, top, sum);
  constexpr int kBytes = C.o_dtype == DType::f32 ? 4 : 2;
  char* const line = p.o + query_offset(p.o_axes, request, place.i, place.head) * kBytes;
#pragma unroll
  for (int n = 0; n < kPairs; ++n)
    write_pair<C.o_dtype, C.d_v, false>(line, 64 * n + 2 * lane, finish.factor == 0 ? 0.0f : o[n][0] * finish.factor,
                                        finish.factor == 0 ? 0.0f : o[n][1] * finish.factor);
  if (p.lse && lane == 0) p.lse[query_offset(p.lse_axes, request, place.i, place.head)] = finish.lse;
}

template <CombineConfig C>
__device__ __forceinline__ void combine_splits(const ForwardParams& p) {
  // Blocks lie tile by tile, `combine_groups` of them share a tile's rows.
  const int groups = p.combine_groups, splits = static_cast<int>(p.splits.value);
#pragma unroll 1
  for (int block = static_cast<int>(blockIdx.x); block < p.items / splits * groups; block += static_cast<int>(gridDim.x)) {
    const int unit = block / groups;
    const WorkItem item = decode_item(p, unit * splits);
    const Request request = find_request<C.has_lengths>(p, item.request);
    const int rows = static_cast<int>(request.s_q) * static_cast<int>(p.pack.value), first = item.tile * C.tile_q;
    const int warp = (block - unit * groups) * C.kWarps + static_cast<int>(threadIdx.x) / 32;
    for (int row = warp; row < min(C.tile_q, rows - first); row += groups * C.kWarps)
      combine_row<C>(p, request, unit * splits, row, place_of(p, item.slot, first + row));
  }
}

}  // namespace flash_attn::cuda
