// Before the backward's main kernel: the statistics of each query row, zeros for the sums of dq, and dout in q's dtype where o has
// another one. A block takes a tile of one head's rows; a few lanes share a row. Knows its parameters and config alone.
#pragma once

#include "cuda/kernels/backward_configs.h"
#include "cuda/kernels/tile/scores.cuh"
#include "cuda/kernels/tile/stat_rows.cuh"
#include "cuda/kernels/tile/write.cuh"

namespace flash_attn::cuda {

template <BackwardPreConfig C>
struct BackwardPre {
  static constexpr int kElement = C.o_dtype == DType::f32 ? 4 : 2;
  static constexpr int kChunks = (C.d_v + 7) / 8;  // eight columns each
  static constexpr int kLanes = kChunks > 16 ? 32 : kChunks > 8 ? 16 : kChunks > 4 ? 8 : kChunks > 2 ? 4 : kChunks > 1 ? 2 : 1;
  static constexpr int kRowsAtOnce = C.threads() / kLanes;

  static __device__ __forceinline__ void load_chunk(const char* row, int chunk, float (&x)[8]) {
    const char* const at = row + chunk * 8 * kElement;
    constexpr bool kAreWhole = C.d_v % 8 == 0;
    if (C.access == 16 && (kAreWhole || chunk * 8 + 8 <= C.d_v)) {
      if constexpr (C.o_dtype == DType::f32) {
        const float4 low = reinterpret_cast<const float4*>(at)[0], high = reinterpret_cast<const float4*>(at)[1];
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
      } else {
        const uint4 words = *reinterpret_cast<const uint4*>(at);
        const unsigned word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int n = 0; n < 8; ++n) x[n] = widen<C.o_dtype>(static_cast<unsigned short>(word[n / 2] >> (n % 2 * 16)));
      }
      return;
    }
    if constexpr (C.access < 16 || !kAreWhole) {
#pragma unroll
      for (int n = 0; n < 8; ++n) x[n] = chunk * 8 + n < C.d_v ? load_as_float<C.o_dtype>(at, n) : 0.0f;
    }
  }

  static __device__ __forceinline__ void copy_chunk_of_dout(const BackwardParams& p, long long stat_row, int chunk,
                                                            const float (&x)[8]) {
    constexpr int kBytes = C.dtype == DType::f32 ? 4 : 2;
    char* const row = p.dout_copy + stat_row * (C.copy_columns() * kBytes);
#pragma unroll
    for (int n = 0; n < 8; n += 2) write_pair<C.dtype, C.copy_columns(), true>(row, chunk * 8 + n, x[n], x[n + 1]);
  }

  // A row on its way: this lane's chunk of o and dout, and what the first lane needs of the row.
  struct Row {
    float o[8], dout[8];
    float lse, dlse;
  };
  static __device__ __forceinline__ void load_row(const BackwardParams& p, const StatTile& tile, int row, int lane, Row& to) {
    const long long i = tile.first + row;
#pragma unroll
    for (int n = 0; n < 8; ++n) to.o[n] = to.dout[n] = 0;
    to.lse = minus_infinity();
    to.dlse = 0;
    if (row >= C.tile || i >= tile.request.s_q) return;
    if (lane == 0) {
      to.lse = p.lse[query_offset(p.lse_axes, tile.request, i, tile.head)];
      if (p.dlse) to.dlse = p.dlse[query_offset(p.dlse_axes, tile.request, i, tile.head)];
    }
    if (lane >= kChunks) return;
    load_chunk(p.o + query_offset(p.o_axes, tile.request, i, tile.head) * kElement, lane, to.o);
    load_chunk(p.dout + query_offset(p.dout_axes, tile.request, i, tile.head) * kElement, lane, to.dout);
  }

  static __device__ __forceinline__ void write_row(const BackwardParams& p, const StatTile& tile, int row, int lane,
                                                   const Row& from, bool& is_large) {
    if constexpr (C.copies_dout()) {
      if (row < C.tile && tile.first + row < tile.request.s_q && lane < kChunks)
        copy_chunk_of_dout(p, tile.stat_at + row, lane, from.dout);
    }
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) sum = fmaf(from.o[n], from.dout[n], sum);
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane != 0 || row >= C.tile) return;
    const bool sees_nothing = from.lse == minus_infinity();  // a row behind the last one neither
    is_large = is_large || (!sees_nothing && !(fabsf(from.lse) <= largest_lse(C.dtype)));
    p.row_lse2[tile.stat_at + row] = sees_nothing ? -minus_infinity() : from.lse * kLog2E;
    p.row_delta[tile.stat_at + row] = sees_nothing ? 0.0f : sum - from.dlse;
  }

  static __device__ __forceinline__ void run(const BackwardParams& p, int item) {
    const StatTile tile = find_stat_tile<C.has_lengths>(p, item);
    if (tile.first >= tile.request.s_q) return;
    constexpr int kAtOnce = C.tile / kRowsAtOnce >= 2 ? 2 : 1;  // so many rows of a lane are on their way
    const int lane = static_cast<int>(threadIdx.x) % kLanes, first = static_cast<int>(threadIdx.x) / kLanes;
    bool is_large = false;
#pragma unroll 1
    for (int base = 0; base < C.tile; base += kAtOnce * kRowsAtOnce) {
      Row row[kAtOnce];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) load_row(p, tile, base + n * kRowsAtOnce + first, lane, row[n]);
      if constexpr (C.sums_d > 0) {
        if (base == 0) clear_sums(p, tile);
      }
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) write_row(p, tile, base + n * kRowsAtOnce + first, lane, row[n], is_large);
    }
    const bool any_large = __syncthreads_or(is_large);
    if (threadIdx.x == 0) p.large_tiles[tile.stat_at / C.tile] = any_large;
  }

  static __device__ __forceinline__ void clear_sums(const BackwardParams& p, const StatTile& tile) {
    float4* const sums = reinterpret_cast<float4*>(p.dq_sums + tile.stat_at * C.sums_d);
    for (int n = static_cast<int>(threadIdx.x); n < C.tile * (C.sums_d / 4); n += C.threads()) sums[n] = make_float4(0, 0, 0, 0);
  }
};

template <BackwardPreConfig C>
__device__ __forceinline__ void backward_pre(const BackwardParams& p) {
  const int items = p.b * p.slots * p.stat_tiles;
#pragma unroll 1
  for (int item = static_cast<int>(blockIdx.x); item < items; item += static_cast<int>(gridDim.x)) BackwardPre<C>::run(p, item);
}

}  // namespace flash_attn::cuda
