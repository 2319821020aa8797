// The two products of a warp over its strips of 16 rows: scores = Q K^T and o += weights V. Operands lie in shared memory, swizzled
// by chunk_offset; accumulators have mma.sync's layout for every type. 16-bit types use tensor cores; f32 is multiplied in fp32.
#pragma once

#include "cuda/kernels/ptx/mma.cuh"
#include "cuda/kernels/ptx/special.cuh"
#include "cuda/kernels/tile/rows.cuh"

namespace flash_attn::cuda {

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x / 32); }

template <bool kFirst, class First, class Second>
struct ByWidth {
  using Type = First;
};
template <class First, class Second>
struct ByWidth<false, First, Second> {
  using Type = Second;
};

// Shared by the warps of C.columns columns, of which each has tile_k / columns keys for the scores, one after the other, and every
// columns-th pair of 8-column tiles for the values.
template <auto C>
struct Products {
  static constexpr int kStrips = C.strips();
  static constexpr int kKeys = C.tile_k / C.columns;
  static constexpr int kKeyTiles = kKeys / 8;
  static constexpr int kValueTiles = C.padded_d_v() / C.columns / 8;
  static constexpr int kRow = C.row_bytes(), kRowV = C.row_bytes_v(), kRowWeights = C.tile_k * 2;

  static constexpr int kKeptSteps = C.keeps_queries ? C.padded_d() / 16 : 1;

  using Scores = float[kStrips][kKeyTiles][4];
  using Output = float[kStrips][kValueTiles][4];
  using Packed = unsigned[kStrips][kKeys / 16][4];
  using Queries = unsigned[kStrips][kKeptSteps][4];
  using Weights = typename ByWidth<C.dtype == DType::f32, Scores, Packed>::Type;  // as the second product takes them

  static __device__ __forceinline__ void keep_queries(unsigned q, Queries& kept) {
    const ChunkColumn q_column = chunk_column<kRow>(q, lane_id() % 16, lane_id() / 16);
#pragma unroll
    for (int c = 0; c < kKeptSteps; ++c) {
#pragma unroll
      for (int r = 0; r < kStrips; ++r) load_matrix4(kept[r][c], chunk_address(q_column, c) + r * 16 * kRow);
    }
  }

  // q: the warp's first row, k: its first key. between(c) is called before each of the kSteps parts of d.
  static constexpr int kSteps = C.padded_d() / 16;
  template <class Between>
  static __device__ __forceinline__ void scores(const Queries& kept, unsigned q, unsigned k, Scores& s, Between&& between) {
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) s[r][n][0] = s[r][n][1] = s[r][n][2] = s[r][n][3] = 0;
    }
    if constexpr (C.dtype == DType::f32) {
      scores_f32(q, k, s);
    } else {
      scores_16(kept, q, k, s, between);
    }
  }

  static __device__ __forceinline__ void pack(const Scores& s, Packed& packed) {
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
#pragma unroll
      for (int t = 0; t < kKeyTiles; ++t) {
        packed[r][t / 2][t % 2 * 2] = pack2<C.dtype>(s[r][t][0], s[r][t][1]);
        packed[r][t / 2][t % 2 * 2 + 1] = pack2<C.dtype>(s[r][t][2], s[r][t][3]);
      }
    }
  }
  static __device__ __forceinline__ void pack(const Scores& s, Scores& weights) {
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
#pragma unroll
      for (int t = 0; t < kKeyTiles; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) weights[r][t][e] = s[r][t][e];
      }
    }
  }

  template <class Between>
  static __device__ __forceinline__ void values(const Scores& weights, unsigned v, unsigned, Output& o, int, Between&&) {
    values_f32(weights, v, o);
  }

  // v: the step's first key. With more than one column, `from` is where the other warps of these rows put their weights.
  // between(n) is called before each of kValueSteps loads.
  static constexpr int kValueSteps = C.tile_k / 16 * (kValueTiles / 2);
  template <class Between>
  static __device__ __forceinline__ void values(const Packed& weights, unsigned v, unsigned from, Output& o, int column,
                                                Between&& between) {
    const int lane = static_cast<int>(forget(threadIdx.x % 32));
#pragma unroll
    for (int part = 0; part < C.columns; ++part) {
      const int owner = C.columns == 1 || part == 0 ? column : 1 - column;
      const ChunkColumn at = chunk_column<kRowV>(v + owner * kKeys * kRowV, lane % 16, lane / 16 + 2 * column);
#pragma unroll
      for (int t = 0; t < kKeys / 16; ++t) {
        unsigned a[kStrips][4];
#pragma unroll
        for (int r = 0; r < kStrips; ++r) {
          if (part == 0) {
            a[r][0] = weights[r][t][0], a[r][1] = weights[r][t][1], a[r][2] = weights[r][t][2], a[r][3] = weights[r][t][3];
          } else {
            load_matrix4(
                a[r], from + r * 16 * kRowWeights + chunk_offset<kRowWeights>(lane % 16, owner * (kKeys / 8) + 2 * t + lane / 16));
          }
        }
#pragma unroll
        for (int n = 0; n < kValueTiles / 2; ++n) {
          between((part * (kKeys / 16) + t) * (kValueTiles / 2) + n);
          unsigned b[4];
          load_matrix4_transposed(b, chunk_address(at, n * C.columns) + t * 16 * kRowV);
#pragma unroll
          for (int r = 0; r < kStrips; ++r) {
            mma_16816<C.dtype>(o[r][2 * n], a[r], b[0], b[1]);
            mma_16816<C.dtype>(o[r][2 * n + 1], a[r], b[2], b[3]);
          }
        }
      }
    }
  }

  // With more than one column: weights for the other warps of the row to read.
  static __device__ __forceinline__ void share(const Packed& weights, unsigned to, int column) {
    const int lane = lane_id();
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
#pragma unroll
      for (int t = 0; t < kKeys / 8; ++t) {
        const unsigned at =
            to + r * 16 * kRowWeights + chunk_offset<kRowWeights>(lane / 4, column * (kKeys / 8) + t) + lane % 4 * 4;
        store_shared_u32(at, weights[r][t / 2][t % 2 * 2]);
        store_shared_u32(at + 8 * kRowWeights, weights[r][t / 2][t % 2 * 2 + 1]);
      }
    }
  }

 private:
  template <class Between>
  static __device__ __forceinline__ void scores_16(const Queries& kept, unsigned q, unsigned k, Scores& s, Between&& between) {
    const int lane = static_cast<int>(forget(threadIdx.x % 32));
    const ChunkColumn q_column = chunk_column<kRow>(q, lane % 16, lane / 16);
    const ChunkColumn k_column = chunk_column<kRow>(k, lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int c = 0; c < kSteps; ++c) {
      between(c);
      unsigned a[kStrips][4];
      const unsigned q_at = chunk_address(q_column, c);
#pragma unroll
      for (int r = 0; r < kStrips; ++r) {
        if constexpr (C.keeps_queries) {
          a[r][0] = kept[r][c][0], a[r][1] = kept[r][c][1], a[r][2] = kept[r][c][2], a[r][3] = kept[r][c][3];
        } else {
          load_matrix4(a[r], q_at + r * 16 * kRow);
        }
      }
      const unsigned k_at = chunk_address(k_column, c);
#pragma unroll
      for (int n = 0; n < kKeyTiles / 2; ++n) {
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
