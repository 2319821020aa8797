// Zeros for gradient rows that no request uses: behind its length, before its left padding, and in the gaps of packed tensors. Each
// lane judges a row; the warp then clears the dead ones together. Tables are not trusted: whatever they say, only rows inside the
// tensors are written.
#pragma once

#include "cuda/kernels/backward_configs.h"
#include "cuda/kernels/backward_params.h"
#include "cuda/kernels/tile/gradients.cuh"
#include "cuda/kernels/tile/request.cuh"

namespace flash_attn::cuda {

template <BackwardDeadConfig C>
struct BackwardDead {
  // The last request that begins at or before a packed row.
  static __device__ __forceinline__ int request_of(const int* starts, int b, int row) {
    int low = 0, high = b - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (starts[middle] <= row) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  static __device__ __forceinline__ bool is_live_query(const BackwardParams& p, int batch, int row) {
    if (p.b == 0) return false;
    const int r = p.cu_seqlens_q ? request_of(p.cu_seqlens_q, p.b, row) : batch;
    const Request request = find_request<true>(p, r);
    return row >= request.q_row && row < request.q_row + request.s_q;
  }
  static __device__ __forceinline__ bool is_live_key(const BackwardParams& p, int batch, int row) {
    if (p.b == 0) return false;
    const int r = p.cu_seqlens_k ? request_of(p.cu_seqlens_k, p.b, row) : batch;
    const Request request = find_request<true>(p, r);
    return row >= request.k_row && row < request.k_row + request.s_k;
  }

  // One row of every head, by a warp.
  static __device__ __forceinline__ void clear(char* base, const Axes& axes, DType type, int columns, int heads, int batch,
                                               int row) {
    const int lane = static_cast<int>(threadIdx.x % 32), bytes = gradient_bytes(type);
    for (int head = 0; head < heads; ++head) {
      char* const line = base + (batch * axes.batch + row * axes.row + head * axes.head) * bytes;
      for (int c = lane; c < columns; c += 32) {
        if (bytes == 4) {
          reinterpret_cast<float*>(line)[c] = 0;
        } else {
          reinterpret_cast<unsigned short*>(line)[c] = 0;
        }
      }
    }
  }
  static __device__ __forceinline__ void clear_bias(const BackwardParams& p, int row) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    for (int head = 0; head < p.dbias_heads; ++head) {
      float* const line = p.dbias + head * p.dbias_axes.head + row * p.dbias_axes.row;
      for (int c = lane; c < p.dbias_columns; c += 32) line[c] = 0;
    }
  }

  static __device__ __forceinline__ void clear_queries(const BackwardParams& p, int batch, int row) {
    if constexpr (C.clears_dq) clear(p.dq, p.dq_axes, C.dq_dtype, C.d, p.slots, batch, row);
    if constexpr (C.clears_dbias) clear_bias(p, row);
  }
  static __device__ __forceinline__ void clear_keys(const BackwardParams& p, int batch, int row) {
    const int heads = p.slots / static_cast<int>(p.slot_group.value);
    if constexpr (C.clears_dk) clear(p.dk, p.dk_axes, C.dk_dtype, C.d, heads, batch, row);
    if constexpr (C.clears_dv) clear(p.dv, p.dv_axes, C.dv_dtype, C.d_v, heads, batch, row);
  }

  // Rows first .. first + 31 of a tensor that has `batches` times `rows`.
  template <bool kIsQuery>
  static __device__ __forceinline__ void look(const BackwardParams& p, long long first, int batches, int rows) {
    const long long mine = first + static_cast<int>(threadIdx.x % 32);
    const int batch = static_cast<int>(mine / rows), row = static_cast<int>(mine - static_cast<long long>(batch) * rows);
    const bool is_there = batch < batches;
    bool is_dead = false;
    if (is_there) is_dead = kIsQuery ? !is_live_query(p, batch, row) : !is_live_key(p, batch, row);
    for (unsigned dead = __ballot_sync(0xffffffffu, is_dead); dead != 0; dead &= dead - 1) {
      const int lane = __ffs(static_cast<int>(dead)) - 1;
      const int batch_of = __shfl_sync(0xffffffffu, batch, lane), row_of = __shfl_sync(0xffffffffu, row, lane);
      if constexpr (kIsQuery) {
        clear_queries(p, batch_of, row_of);
      } else {
        clear_keys(p, batch_of, row_of);
      }
    }
  }

  template <bool kIsQuery>
  static __device__ __forceinline__ void sweep(const BackwardParams& p, int batches, int rows) {
    if (rows <= 0) return;
    const long long total = static_cast<long long>(batches) * rows;
    const long long warp = static_cast<long long>(blockIdx.x) * C.kWarps + static_cast<int>(threadIdx.x / 32);
#pragma unroll 1
    for (long long first = warp * 32; first < total; first += static_cast<long long>(gridDim.x) * C.kWarps * 32)
      look<kIsQuery>(p, first, batches, rows);
  }
};

template <BackwardDeadConfig C>
__device__ __forceinline__ void backward_dead(const BackwardParams& p) {
  if constexpr (C.clears_dq || C.clears_dbias)
    BackwardDead<C>::template sweep<true>(p, p.cu_seqlens_q ? 1 : p.b, p.cu_seqlens_q ? p.total_q : p.max_s_q);
  if constexpr (C.clears_dk || C.clears_dv)
    BackwardDead<C>::template sweep<false>(p, p.cu_seqlens_k ? 1 : p.b, p.cu_seqlens_k ? p.k_rows : p.key_extent);
}

}  // namespace flash_attn::cuda
