// Single bytes in shared memory, and bytes on their way from global memory.
#pragma once

namespace flash_attn::cuda {

__device__ __forceinline__ void store_shared_u8(unsigned address, unsigned x) {
  asm volatile("st.shared.u8 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

// Into the L2 cache, from memory that this thread may read.
__device__ __forceinline__ void prefetch_l2(const unsigned char* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

}  // namespace flash_attn::cuda
