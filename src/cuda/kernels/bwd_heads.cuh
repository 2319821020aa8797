// Sums over the rows of a head in a fixed order: d_sink and d_slopes. A block takes one sum; each of its warps takes every so many
// requests, its lanes the rows. Knows its parameters and config alone.
#pragma once

#include "cuda/kernels/backward_configs.h"
#include "cuda/kernels/tile/scores.cuh"
#include "cuda/kernels/tile/stat_rows.cuh"

namespace flash_attn::cuda {

template <BackwardHeadsConfig C>
struct BackwardHeads {
  // Of all threads' numbers, on all of them.
  static __device__ __forceinline__ float block_sum(float x) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    float* const parts = reinterpret_cast<float*>(shared_memory);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int n = 0; n < C.kWarps; ++n) sum += parts[n];
    return sum;
  }

  // term(stat row) over the rows of requests [begin, end) of a head.
  template <class Term>
  static __device__ __forceinline__ float sum_rows(const BackwardParams& p, int head, int begin, int end, Term&& term) {
    float sum = 0;
    const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
    const bool is_alone = end - begin == 1;  // then the warps share its rows
#pragma unroll 1
    for (int r = is_alone ? begin : begin + warp; r < end; r += C.kWarps) {
      const Request request = find_request<C.has_lengths>(p, r);
      const long long at = head * p.stat_rows + first_stat_row(p, request);
      const int step = is_alone ? C.threads() : 32;
#pragma unroll 4
      for (int i = is_alone ? static_cast<int>(threadIdx.x) : lane; i < request.s_q; i += step) sum += term(at + i);
    }
    return block_sum(sum);
  }
};

template <BackwardHeadsConfig C>
__device__ __forceinline__ void backward_heads(const BackwardParams& p) {
  const int sinks = p.dsink ? p.slots : 0;
  const int items = sinks + (p.dslopes ? p.dslopes_rows * p.slots : 0);
#pragma unroll 1
  for (int item = static_cast<int>(blockIdx.x); item < items; item += static_cast<int>(gridDim.x)) {
    if (item < sinks) {
      const float sink = p.sink[item] * kLog2E;
      const float sum = BackwardHeads<C>::sum_rows(p, item, 0, p.b, [&](long long at) {
        const float lse2 = p.row_lse2[at];
        return lse2 == -minus_infinity() ? 0.0f : -exp2_fast(sink - lse2) * p.row_delta[at];
      });
      if (threadIdx.x == 0) p.dsink[item] = sum;
    } else {
      const int row = (item - sinks) / p.slots, head = item - sinks - row * p.slots;
      const bool is_summed = p.dslopes_rows == 1;
      const float sum = BackwardHeads<C>::sum_rows(p, head, is_summed ? 0 : row, is_summed ? p.b : row + 1,
                                                   [&](long long at) { return p.row_slopes[at]; });
      if (threadIdx.x == 0) p.dslopes[row * p.dslopes_batch_stride + head] = sum;
    }
  }
}

}  // namespace flash_attn::cuda
