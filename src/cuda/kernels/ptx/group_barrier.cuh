// Barriers of some warps of a block (PTX ISA, barrier): number 0 is __syncthreads's.
#pragma once

namespace flash_attn::cuda {

__device__ __forceinline__ void sync_group(int barrier, int threads) {
  asm volatile("barrier.cta.sync.aligned %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Whether `x` holds for any of the threads.
__device__ __forceinline__ bool any_of_group(int barrier, int threads, bool x) {
  int any;
  asm volatile(
      "{\n.reg .pred in, out;\n"
      "setp.ne.s32 in, %3, 0;\n"
      "barrier.cta.red.or.aligned.pred out, %1, %2, in;\n"
      "selp.s32 %0, 1, 0, out;\n}"
      : "=r"(any)
      : "r"(barrier), "r"(threads), "r"(static_cast<int>(x))
      : "memory");
  return any != 0;
}

}  // namespace flash_attn::cuda
