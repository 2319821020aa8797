// The two products of a warp over its strips of 16 rows: scores = Q K^T and o += weights V. Operands lie in shared memory, swizzled
// by chunk_offset; accumulators have mma.sync's layout for every type. 16-bit types use tensor cores; f32 is multiplied in fp32.
#pragma once

#include "cuda/kernels/ptx/mma.cuh"
#include "cuda/kernels/ptx/special.cuh"
#include "cuda/kernels/tile/rows.cuh"

namespace flash_attn::cuda {

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x / 32); }

template <auto C>
struct Products {
  static constexpr int kStrips = C.strips();
  static constexpr int kKeyTiles = C.tile_k / 8;
  static constexpr int kValueTiles = C.padded_d_v() / 8;
  static constexpr int kRow = C.row_bytes(), kRowV = C.row_bytes_v();

  using Scores = float[kStrips][kKeyTiles][4];
  using Output = float[kStrips][kValueTiles][4];

  // q: the warp's first row.
  static __device__ __forceinline__ void scores(unsigned q, unsigned k, Scores& s) {
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) s[r][n][0] = s[r][n][1] = s[r][n][2] = s[r][n][3] = 0;
    }
    if constexpr (C.dtype == DType::f32) {
      scores_f32(q, k, s);
    } else {
      scores_16(q, k, s);
    }
  }

  static __device__ __forceinline__ void values(const Scores& weights, unsigned v, Output& o) {
    if constexpr (C.dtype == DType::f32) {
      values_f32(weights, v, o);
    } else {
      values_16(weights, v, o);
    }
  }

 private:
  static __device__ __forceinline__ void scores_16(unsigned q, unsigned k, Scores& s) {
    const int lane = static_cast<int>(forget(threadIdx.x % 32));
    const ChunkColumn q_column = chunk_column<kRow>(q, lane % 16, lane / 16);
    const ChunkColumn k_column = chunk_column<kRow>(k, lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int c = 0; c < C.padded_d() / 16; ++c) {
      unsigned a[kStrips][4];
      const unsigned q_at = chunk_address(q_column, c);
#pragma unroll
      for (int r = 0; r < kStrips; ++r) load_matrix4(a[r], q_at + r * 16 * kRow);
      const unsigned k_at = chunk_address(k_column, c);
#pragma unroll
      for (int n = 0; n < C.tile_k / 16; ++n) {
        unsigned b[4];
        load_matrix4(b, k_at + n * 16 * kRow);
#pragma unroll
        for (int r = 0; r < kStrips; ++r) {
          mma_16816<C.dtype>(s[r][2 * n], a[r], b[0], b[1]);
          mma_16816<C.dtype>(s[r][2 * n + 1], a[r], b[2], b[3]);
        }
      }
    }
  }

  static __device__ __forceinline__ void values_16(const Scores& weights, unsigned v, Output& o) {
    const int lane = static_cast<int>(forget(threadIdx.x % 32));
    const ChunkColumn column = chunk_column<kRowV>(v, lane % 16, lane / 16);
#pragma unroll
    for (int t = 0; t < C.tile_k / 16; ++t) {
      unsigned a[kStrips][4];
#pragma unroll
      for (int r = 0; r < kStrips; ++r) {
        a[r][0] = pack2<C.dtype>(weights[r][2 * t][0], weights[r][2 * t][1]);
        a[r][1] = pack2<C.dtype>(weights[r][2 * t][2], weights[r][2 * t][3]);
        a[r][2] = pack2<C.dtype>(weights[r][2 * t + 1][0], weights[r][2 * t + 1][1]);
        a[r][3] = pack2<C.dtype>(weights[r][2 * t + 1][2], weights[r][2 * t + 1][3]);
      }
#pragma unroll
      for (int n = 0; n < C.padded_d_v() / 16; ++n) {
        unsigned b[4];
        load_matrix4_transposed(b, chunk_address(column, n) + t * 16 * kRowV);
#pragma unroll
        for (int r = 0; r < kStrips; ++r) {
          mma_16816<C.dtype>(o[r][2 * n], a[r], b[0], b[1]);
          mma_16816<C.dtype>(o[r][2 * n + 1], a[r], b[2], b[3]);
        }
      }
    }
  }

  static __device__ __forceinline__ float dot4(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
  }

  static __device__ __forceinline__ void scores_f32(unsigned q, unsigned k, Scores& s) {
    const int row = lane_id() / 4, key = lane_id() % 4 * 2;
#pragma unroll 1
    for (int c = 0; c < kRow / 16; ++c) {
      float4 low[kStrips], high[kStrips];
      const unsigned q_at = q + chunk_offset<kRow>(row, c);  // eight rows on, the swizzle is the same
#pragma unroll
      for (int r = 0; r < kStrips; ++r) {
        low[r] = load_shared_float4(q_at + r * 16 * kRow);
        high[r] = load_shared_float4(q_at + (r * 16 + 8) * kRow);
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const unsigned k_at = k + chunk_offset<kRow>(key + e, c);
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
          const float4 x = load_shared_float4(k_at + n * 8 * kRow);
#pragma unroll
          for (int r = 0; r < kStrips; ++r) {
            s[r][n][e] = dot4(low[r], x, s[r][n][e]);
            s[r][n][2 + e] = dot4(high[r], x, s[r][n][2 + e]);
          }
        }
      }
    }
  }

  // Each weight is held by one lane of a quad; the others get it by a shuffle. Pairs of keys are not unrolled: the assembler would
  // load too far ahead.
  static __device__ __forceinline__ void values_f32(const Scores& weights, unsigned v, Output& o) {
    const int quad = lane_id() & ~3, half = lane_id() % 4 / 2;
    const unsigned column = v + lane_id() % 2 * 8;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll 1
      for (int pair = 0; pair < 4; ++pair) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float low[kStrips], high[kStrips];
#pragma unroll
          for (int r = 0; r < kStrips; ++r) {
            low[r] = __shfl_sync(0xffffffffu, weights[r][n][e], quad + pair);
            high[r] = __shfl_sync(0xffffffffu, weights[r][n][2 + e], quad + pair);
          }
          const ChunkColumn at = chunk_column<kRowV>(column, 8 * n + 2 * pair + e, half);
#pragma unroll
          for (int t = 0; t < kValueTiles; ++t) {
            const float2 x = load_shared_float2(chunk_address(at, t));
#pragma unroll
            for (int r = 0; r < kStrips; ++r) {
              o[r][t][0] = fmaf(low[r], x.x, o[r][t][0]);
              o[r][t][1] = fmaf(low[r], x.y, o[r][t][1]);
              o[r][t][2] = fmaf(high[r], x.x, o[r][t][2]);
              o[r][t][3] = fmaf(high[r], x.y, o[r][t][3]);
            }
          }
        }
      }
    }
  }
};

}  // namespace flash_attn::cuda
