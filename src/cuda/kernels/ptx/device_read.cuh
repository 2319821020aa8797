// Reads of what other blocks of the same launch have written: from the cache that all multiprocessors share, past their own (PTX
// ISA, "Cache Operators").
#pragma once

namespace flash_attn::cuda {

__device__ __forceinline__ float2 load_device_float2(const float* at) {
  float2 x;
  asm volatile("ld.global.cg.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"(at) : "memory");
  return x;
}
__device__ __forceinline__ float4 load_device_float4(const float* at) {
  float4 x;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(at) : "memory");
  return x;
}

}  // namespace flash_attn::cuda
