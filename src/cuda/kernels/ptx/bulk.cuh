// Bulk copies and additions between shared and global memory that need no tensor map (PTX ISA, cp.async.bulk and
// cp.reduce.async.bulk), and the stores that prepare them.
#pragma once

namespace flash_attn::cuda {

// Adds `bytes` of floats in shared memory to memory; part of the thread's next group of bulk copies.
__device__ __forceinline__ void bulk_add(float* target, unsigned source, unsigned bytes, unsigned long long policy) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.L2::cache_hint.add.f32 [%0], [%1], %2, %3;" ::"l"(target),
               "r"(source), "r"(bytes), "l"(policy)
               : "memory");
}

__device__ __forceinline__ void bulk_load(unsigned target, const void* source, unsigned bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target), "l"(source),
               "r"(bytes), "r"(barrier)
               : "memory");
}

__device__ __forceinline__ void store_shared_float4(unsigned address, float a, float b, float c, float d) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

// As store_matrix4, each 8x8 matrix transposed.
__device__ __forceinline__ void store_matrix4_transposed(unsigned address, unsigned a, unsigned b, unsigned c, unsigned d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b), "r"(c),
               "r"(d)
               : "memory");
}

}  // namespace flash_attn::cuda
