// Rows of o as the Hopper kernel's accumulators hold them, on their way to memory: finished, or as partial results of key splits in
// either of two layouts, for the kernel that merges them (params.h) or for the row warps (Sm90Extras).
#pragma once

#include "cuda/kernels/params.h"
#include "cuda/kernels/sm90_configs.h"
#include "cuda/kernels/tile/write.cuh"

namespace flash_attn::cuda {

// A row's columns as this thread holds them: of two rows, the one of number r.
template <class Config, DType kType, bool kPairs, int kCount>
__device__ __forceinline__ void write_row(char* line, const float (&O)[kCount], int r, float by) {
  constexpr Sm90ForwardConfig c = Config::value;
  const int lane = static_cast<int>(threadIdx.x) & 31;
#pragma unroll
  for (int j = 0; j < c.d_v / 8; ++j)
    write_pair<kType, c.row_d_v, kPairs>(line, 8 * j + 2 * (lane & 3), by == 0.f ? 0.f : O[4 * j + 2 * r] * by,
                                         by == 0.f ? 0.f : O[4 * j + 2 * r + 1] * by);
}

// Row in_tile of an item: not normalised, with its maximum (log2 domain) and sum.
template <class Config, int kCount>
__device__ __forceinline__ void write_part(const Sm90ForwardArguments& a, int item, int in_tile, const float (&O)[kCount], int r,
                                           float top, float sum) {
  constexpr Sm90ForwardConfig c = Config::value;
  const bool is_first = (threadIdx.x & 3) == 0;
  const ForwardParams& p = a.params;
  if constexpr (c.merges_splits) {
    const long long rows = a.extras.part_rows, row = item * rows + in_tile;
    write_row<Config, DType::f32, true>(reinterpret_cast<char*>(p.partials + row * c.d_v), O, r, 1.f);
    float* const stats = p.partials + rows * p.items * c.d_v + row * 2;
    if (is_first) *reinterpret_cast<float2*>(stats) = make_float2(top, sum);
  } else {
    float* const partial = p.partials + static_cast<long long>(item) * c.tile_q() * (c.row_d_v + 2);
    float* const stats = partial + static_cast<long long>(c.tile_q()) * c.row_d_v + in_tile;
    write_row<Config, DType::f32, c.row_d_v % 2 == 0>(
        reinterpret_cast<char*>(partial + static_cast<long long>(in_tile) * c.row_d_v), O, r, 1.f);
    if (is_first) stats[0] = top, stats[c.tile_q()] = sum;
  }
}

}  // namespace flash_attn::cuda
