// Bytes: four in a word (PTX ISA, dp4a), single ones in shared memory, and on their way from global memory.
#pragma once

namespace flash_attn::cuda {

// sum plus the products of the bytes.
__device__ __forceinline__ unsigned dot4(unsigned x, unsigned y, unsigned sum) {
  unsigned z;
  asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(z) : "r"(x), "r"(y), "r"(sum));
  return z;
}

__device__ __forceinline__ void store_shared_u8(unsigned address, unsigned x) {
  asm volatile("st.shared.u8 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

// Into the L2 cache, from memory that this thread may read.
__device__ __forceinline__ void prefetch_l2(const unsigned char* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

}  // namespace flash_attn::cuda
