// Counters by which blocks wait for each other (PTX ISA, "Memory Consistency Model").
#pragma once

namespace flash_attn::cuda {

// What others wrote before they released the counter is visible after this.
__device__ __forceinline__ unsigned load_acquire(const unsigned* counter) {
  unsigned x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(counter) : "memory");
  return x;
}

// What this thread has written is visible to the device before what it, or a thread it tells, writes next.
__device__ __forceinline__ void fence_device() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

__device__ __forceinline__ void add_release(unsigned* counter, unsigned x) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(x) : "memory");
}

}  // namespace flash_attn::cuda
