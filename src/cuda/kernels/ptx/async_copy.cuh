// Copies from global to shared memory that complete in groups (PTX ISA, cp.async), and the plain shared-memory accesses beside
// them. Addresses in shared memory are 32-bit.
#pragma once

namespace flash_attn::cuda {

// The same value, whose provenance the compiler forgets: what depends on it is computed anew instead of being kept in registers.
__device__ __forceinline__ unsigned forget(unsigned x) {
  asm volatile("" : "+r"(x));
  return x;
}
__device__ __forceinline__ const char* forget(const char* x) {
  asm volatile("" : "+l"(x));
  return x;
}

// Copies kBytes (4, 8 or 16): the first `valid` from global memory, zeros behind them. Nothing is read when valid is 0.
template <int kBytes>
__device__ __forceinline__ void copy_async(unsigned target, const void* source, int valid) {
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(valid) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(source), "n"(kBytes), "r"(valid) : "memory");
  }
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void store_shared_u16(unsigned address, unsigned short x) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(x) : "memory");
}
__device__ __forceinline__ unsigned load_shared_u32(unsigned address) {
  unsigned x;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
  return x;
}
__device__ __forceinline__ void store_shared_address(unsigned address, const char* x) {
  asm volatile("st.shared.u64 [%0], %1;" ::"r"(address), "l"(x) : "memory");
}
__device__ __forceinline__ const char* load_shared_address(unsigned address) {
  const char* x;
  asm volatile("ld.shared.u64 %0, [%1];" : "=l"(x) : "r"(address) : "memory");
  return x;
}
__device__ __forceinline__ void store_shared_int2(unsigned address, int x, int y) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ int2 load_shared_int2(unsigned address) {
  int2 x;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(address) : "memory");
  return x;
}
__device__ __forceinline__ float4 load_shared_float4(unsigned address) {
  float4 x;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(address) : "memory");
  return x;
}
__device__ __forceinline__ float2 load_shared_float2(unsigned address) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address) : "memory");
  return x;
}

}  // namespace flash_attn::cuda
