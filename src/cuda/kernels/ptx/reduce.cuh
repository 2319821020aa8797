// Additions to global memory that other blocks add to as well (PTX ISA, "red"), and the shared-memory accesses of single values.
#pragma once

namespace flash_attn::cuda {

__device__ __forceinline__ void add_global_float4(float* at, float x, float y, float z, float w) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
#else
  asm volatile(
      "red.relaxed.gpu.global.add.f32 [%0], %1;\n"
      "red.relaxed.gpu.global.add.f32 [%0 + 4], %2;\n"
      "red.relaxed.gpu.global.add.f32 [%0 + 8], %3;\n"
      "red.relaxed.gpu.global.add.f32 [%0 + 12], %4;" ::"l"(at),
      "f"(x), "f"(y), "f"(z), "f"(w)
      : "memory");
#endif
}

__device__ __forceinline__ void store_shared_u32(unsigned address, unsigned x) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}
__device__ __forceinline__ void store_shared_float2(unsigned address, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(x), "f"(y) : "memory");
}
__device__ __forceinline__ void store_shared_float(unsigned address, float x) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
}
__device__ __forceinline__ float load_shared_float(unsigned address) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(address) : "memory");
  return x;
}

}  // namespace flash_attn::cuda
