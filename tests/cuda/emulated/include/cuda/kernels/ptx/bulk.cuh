// Emulated: bulk copies and additions. A copy arrives some time after it was issued and holds NaN until then; an addition reads its
// source when its thread waits for it.
#pragma once

#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/ptx/warpgroup.cuh"

namespace flash_attn::cuda {

inline void bulk_add(float* target, unsigned source, unsigned bytes, unsigned long long) {
  if (reinterpret_cast<uintptr_t>(target) % 16 != 0 || source % 16 != 0 || bytes % 16 != 0)
    emulated::fail("misaligned bulk addition", source);
  emulated::this_thread().stores.push_back([=] {
    for (unsigned n = 0; n < bytes / 4; ++n) target[n] += load_shared<float>(source + 4 * n);
  });
}

inline void bulk_load(unsigned target, const void* source, unsigned bytes, unsigned barrier) {
  if (reinterpret_cast<uintptr_t>(source) % 16 != 0 || target % 16 != 0 || bytes % 16 != 0)
    emulated::fail("misaligned bulk copy", target);
  std::memset(shared_memory + target, 0xFF, bytes);
  emulated::delay([=] {
    std::memcpy(shared_memory + target, source, bytes);
    barrier_complete(barrier, bytes);
  });
}

inline void store_shared_float4(unsigned address, float a, float b, float c, float d) {
  const float4 four{a, b, c, d};
  std::memcpy(shared_bytes_at(address, 16), &four, 16);
}

inline void store_matrix4_transposed(unsigned address, unsigned a, unsigned b, unsigned c, unsigned d) {
  const unsigned lane = emulated::this_lane();
  const StoredMatrices mine{address, {a, b, c, d}};
  std::memcpy(emulated::lane_slot(lane), &mine, sizeof(mine));
  emulated::sync_warp();
  for (unsigned n = 0; n < 4; ++n) {
    for (unsigned e = 0; e < 2; ++e) {
      const unsigned line = static_cast<StoredMatrices*>(emulated::lane_slot(n * 8 + lane % 4 * 2 + e))->address;
      const auto half = static_cast<unsigned short>(mine.x[n] >> (16 * e));
      std::memcpy(shared_bytes_at(line, 16) + lane / 4 * 2, &half, 2);
    }
  }
  emulated::sync_warp();
}

}  // namespace flash_attn::cuda
