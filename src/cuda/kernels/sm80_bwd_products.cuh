// The three kinds of product that a backward step needs, of a warp over tiles in shared memory: A B^T with both operands row by row
// (scores), A^T B (dk, dv) and A B (dq). Accumulators have mma.sync's layout for every type. 16-bit types use tensor cores; f32 is
// multiplied in fp32. Tiles are swizzled by chunk_offset; rows where a warp begins are multiples of 8, its columns of 16 (f32: 8).
#pragma once

#include "cuda/kernels/ptx/mma.cuh"
#include "cuda/kernels/ptx/reduce.cuh"
#include "cuda/kernels/tile/products.cuh"
#include "cuda/kernels/tile/rows.cuh"

namespace flash_attn::cuda {

// kStrips strips of 16 rows by kTiles tiles of 8 columns, as accumulators.
template <int kStrips, int kTiles>
using Accumulators = float[kStrips][kTiles][4];

template <int kStrips, int kTiles>
__device__ __forceinline__ void clear(float (&acc)[kStrips][kTiles][4]) {
#pragma unroll
  for (int r = 0; r < kStrips; ++r) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) acc[r][t][0] = acc[r][t][1] = acc[r][t][2] = acc[r][t][3] = 0;
  }
}

// A warp's columns in a swizzled row: pair n of its chunks, from pair `first` on. Where the warp's width is a power of two the
// first pair takes part in the swizzle like a constant.
template <int kPairs>
struct WarpColumns {
  static constexpr bool kFolds = kPairs % 4 == 0 || kPairs == 2 || kPairs == 1;
  ChunkColumn column;
  int first;
  template <int kRow>
  static __device__ __forceinline__ WarpColumns at(unsigned tile, int row, int half, int first) {
    WarpColumns columns{chunk_column<kRow>(tile, row, half), first};
    if constexpr (kFolds) {
      columns.column.base += static_cast<unsigned>((2 * first & ~7) * 16);
      columns.column.bits ^= static_cast<unsigned>((2 * first & 7) * 16);
    }
    return columns;
  }
  __device__ __forceinline__ unsigned address(int n) const { return chunk_address(column, kFolds ? n : first + n); }
};

template <DType kType, int kStrips, int kTiles>
__device__ __forceinline__ void multiply(float (&acc)[kStrips][kTiles][4], const unsigned (&a)[kStrips][4], const unsigned (&b)[4],
                                         int pair) {
#pragma unroll
  for (int r = 0; r < kStrips; ++r) {
    mma_16816<kType>(acc[r][2 * pair], a[r], b[0], b[1]);
    mma_16816<kType>(acc[r][2 * pair + 1], a[r], b[2], b[3]);
  }
}

// acc += A B^T over kDepth columns of both; a and b are the warp's first rows. kUnroll, here and below: steps of 16 that are laid
// out one after the other; more hide more of the loads' time, and take more registers.
template <DType kType, int kDepth, int kRow, int kUnroll, int kStrips, int kTiles>
__device__ __forceinline__ void product_rows(float (&acc)[kStrips][kTiles][4], unsigned a_tile, unsigned b_tile, int lane) {
  if constexpr (kType == DType::f32) {
#pragma unroll 1
    for (int c = 0; c < kDepth / 4; ++c) {
      float4 low[kStrips], high[kStrips];
#pragma unroll
      for (int r = 0; r < kStrips; ++r) {
        low[r] = load_shared_float4(a_tile + chunk_offset<kRow>(r * 16 + lane / 4, c));
        high[r] = load_shared_float4(a_tile + chunk_offset<kRow>(r * 16 + 8 + lane / 4, c));
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float4 x = load_shared_float4(b_tile + chunk_offset<kRow>(n * 8 + lane % 4 * 2 + e, c));
#pragma unroll
          for (int r = 0; r < kStrips; ++r) {
            acc[r][n][e] = fmaf(low[r].w, x.w, fmaf(low[r].z, x.z, fmaf(low[r].y, x.y, fmaf(low[r].x, x.x, acc[r][n][e]))));
            acc[r][n][2 + e] =
                fmaf(high[r].w, x.w, fmaf(high[r].z, x.z, fmaf(high[r].y, x.y, fmaf(high[r].x, x.x, acc[r][n][2 + e]))));
          }
        }
      }
    }
  } else {
    static_assert(kTiles % 2 == 0);
    const ChunkColumn a_column = chunk_column<kRow>(a_tile, lane % 16, lane / 16);
    const ChunkColumn b_column = chunk_column<kRow>(b_tile, lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll kUnroll
    for (int c = 0; c < kDepth / 16; ++c) {
      unsigned a[kStrips][4];
#pragma unroll
      for (int r = 0; r < kStrips; ++r) load_matrix4(a[r], chunk_address(a_column, c) + r * 16 * kRow);
#pragma unroll
      for (int n = 0; n < kTiles / 2; ++n) {
        unsigned b[4];
        load_matrix4(b, chunk_address(b_column, c) + n * 16 * kRow);
        multiply<kType>(acc, a, b, n);
      }
    }
  }
}

// The two columns that a lane holds of tile n of a warp, in row `row` of an fp32 tile.
template <int kRow>
__device__ __forceinline__ float2 load_two(unsigned tile, int row, int column) {
  return load_shared_float2(tile + chunk_offset<kRow>(row, column / 4) + column % 4 * 4);
}

template <int kStrips, int kTiles>
__device__ __forceinline__ void multiply_f32(float (&acc)[kStrips][kTiles][4], const float (&low)[kStrips],
                                             const float (&high)[kStrips], float2 x, int t) {
#pragma unroll
  for (int r = 0; r < kStrips; ++r) {
    acc[r][t][0] = fmaf(low[r], x.x, acc[r][t][0]);
    acc[r][t][1] = fmaf(low[r], x.y, acc[r][t][1]);
    acc[r][t][2] = fmaf(high[r], x.x, acc[r][t][2]);
    acc[r][t][3] = fmaf(high[r], x.y, acc[r][t][3]);
  }
}

// acc += A^T B over kDepth rows of both: the warp's columns of A from a_first on are its rows, those of B from b_first on its
// columns.
template <DType kType, int kDepth, int kRowA, int kRowB, int kUnroll, int kStrips, int kTiles>
__device__ __forceinline__ void product_columns(float (&acc)[kStrips][kTiles][4], unsigned a_tile, int a_first, unsigned b_tile,
                                                int b_first, int lane) {
  if constexpr (kType == DType::f32) {
#pragma unroll 1
    for (int k = 0; k < kDepth; ++k) {
      float low[kStrips], high[kStrips];
#pragma unroll
      for (int r = 0; r < kStrips; ++r) {
        const int column = a_first + r * 16 + lane / 4;
        low[r] = load_shared_float(a_tile + chunk_offset<kRowA>(k, column / 4) + column % 4 * 4);
        high[r] = load_shared_float(a_tile + chunk_offset<kRowA>(k, column / 4 + 2) + column % 4 * 4);
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) multiply_f32(acc, low, high, load_two<kRowB>(b_tile, k, b_first + t * 8 + lane % 4 * 2), t);
    }
  } else {
    static_assert(kTiles % 2 == 0);
    const auto a_columns = WarpColumns<kStrips>::template at<kRowA>(a_tile, lane / 16 * 8 + lane % 8, lane / 8 % 2, a_first / 16);
    const auto b_columns = WarpColumns<kTiles / 2>::template at<kRowB>(b_tile, lane % 16, lane / 16, b_first / 16);
#pragma unroll kUnroll
    for (int k = 0; k < kDepth / 16; ++k) {
      unsigned a[kStrips][4];
#pragma unroll
      for (int r = 0; r < kStrips; ++r) load_matrix4_transposed(a[r], a_columns.address(r) + k * 16 * kRowA);
#pragma unroll
      for (int n = 0; n < kTiles / 2; ++n) {
        unsigned b[4];
        load_matrix4_transposed(b, b_columns.address(n) + k * 16 * kRowB);
        multiply<kType>(acc, a, b, n);
      }
    }
  }
}

// acc += A B over kDepth columns of A and rows of B; a is the warp's first row.
template <DType kType, int kDepth, int kRowA, int kRowB, int kUnroll, int kStrips, int kTiles>
__device__ __forceinline__ void product_mixed(float (&acc)[kStrips][kTiles][4], unsigned a_tile, unsigned b_tile, int b_first,
                                              int lane) {
  if constexpr (kType == DType::f32) {
#pragma unroll 1
    for (int k = 0; k < kDepth; ++k) {
      float low[kStrips], high[kStrips];
#pragma unroll
      for (int r = 0; r < kStrips; ++r) {
        low[r] = load_shared_float(a_tile + chunk_offset<kRowA>(r * 16 + lane / 4, k / 4) + k % 4 * 4);
        high[r] = load_shared_float(a_tile + chunk_offset<kRowA>(r * 16 + 8 + lane / 4, k / 4) + k % 4 * 4);
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) multiply_f32(acc, low, high, load_two<kRowB>(b_tile, k, b_first + t * 8 + lane % 4 * 2), t);
    }
  } else {
    static_assert(kTiles % 2 == 0);
    const ChunkColumn a_column = chunk_column<kRowA>(a_tile, lane % 16, lane / 16);
    const auto b_columns = WarpColumns<kTiles / 2>::template at<kRowB>(b_tile, lane % 16, lane / 16, b_first / 16);
#pragma unroll kUnroll
    for (int k = 0; k < kDepth / 16; ++k) {
      unsigned a[kStrips][4];
#pragma unroll
      for (int r = 0; r < kStrips; ++r) load_matrix4(a[r], chunk_address(a_column, k) + r * 16 * kRowA);
#pragma unroll
      for (int n = 0; n < kTiles / 2; ++n) {
        unsigned b[4];
        load_matrix4_transposed(b, b_columns.address(n) + k * 16 * kRowB);
        multiply<kType>(acc, a, b, n);
      }
    }
  }
}

}  // namespace flash_attn::cuda
