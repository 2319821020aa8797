// Bulk tensor copies (TMA) through tensor maps of rank 5. Columns and rows come first; what the outer dimensions are is the map's
// affair (first_row in sm90_items.cuh).
#pragma once

#include "cuda/kernels/sm90_configs.h"

namespace flash_attn::cuda {

struct MapPoint {
  int column, row, outer0, outer1, outer2;
};

constexpr unsigned long long kEvictFirst = 0x12F0000000000000ull;  // L2 policies: used once
constexpr unsigned long long kEvictLast = 0x14F0000000000000ull;   // read again by others

__device__ __forceinline__ void prefetch_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void tma_load(unsigned target, const TensorMap* map, unsigned barrier, MapPoint at,
                                         unsigned long long policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(target),
      "l"(map), "r"(at.column), "r"(at.row), "r"(at.outer0), "r"(at.outer1), "r"(at.outer2), "r"(barrier), "l"(policy)
      : "memory");
}

__device__ __forceinline__ void tma_store(const TensorMap* map, unsigned source, MapPoint at) {
  asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4, %5}], [%6];" ::"l"(map),
               "r"(at.column), "r"(at.row), "r"(at.outer0), "r"(at.outer1), "r"(at.outer2), "r"(source)
               : "memory");
}

__device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// The source may be overwritten after this; the data need not have arrived.
__device__ __forceinline__ void tma_store_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void tma_store_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Orders this thread's writes to shared memory before later reads by TMA and wgmma.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace flash_attn::cuda
