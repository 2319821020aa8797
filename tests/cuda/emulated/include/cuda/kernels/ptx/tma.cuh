// Emulated: bulk tensor copies from the maps that the driver stand-in encodes. Loads hold NaN until they arrive, stores read their
// source when their thread waits for them, so that missing waits show.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/sm90_configs.h"
#include "emulated_map.h"

namespace flash_attn::cuda {

struct MapPoint {
  int column, row, outer0, outer1, outer2;
};

constexpr unsigned long long kEvictFirst = 0;
constexpr unsigned long long kEvictLast = 1;

inline void prefetch_map(const TensorMap*) {}

// Calls use(element of memory or null, shared address) for every element of a box.
template <class Use>
void for_box(const TensorMap* map, unsigned target, const MapPoint& at, Use&& use) {
  emulated::Map m;
  std::memcpy(&m, map, sizeof(m));
  if (m.magic != emulated::kMapMagic) emulated::fail("not a tensor map", m.magic);
  if (target % 128 != 0) emulated::fail("misaligned box", target);
  // Hardware calls a copy that begins elsewhere an illegal instruction.
  if (at.column * 2 % 16 != 0)
    emulated::fail("a box begins at no multiple of 16 bytes", static_cast<unsigned long long>(at.column));
  const long long begin[5] = {at.column, at.row, at.outer0, at.outer1, at.outer2};
  for (unsigned row = 0; row < m.box[1]; ++row) {
    for (unsigned column = 0; column < m.box[0]; ++column) {
      bool is_inside = true;
      unsigned long long address = m.base;
      for (int n = 0; n < 5; ++n) {
        const long long x = begin[n] + (n == 0 ? column : (n == 1 ? row : 0));
        is_inside = is_inside && x >= 0 && x < static_cast<long long>(m.extent[n]);
        address += static_cast<unsigned long long>(x) * (n == 0 ? 2 : m.stride[n - 1]);
      }
      const unsigned linear = target + row * 128 + column * 2;
      use(is_inside ? reinterpret_cast<unsigned char*>(address) : nullptr, emulated::swizzled(linear));
    }
  }
}

inline void tma_load(unsigned target, const TensorMap* map, unsigned barrier, MapPoint at, unsigned long long) {
  unsigned bytes = 0;
  for_box(map, target, at, [&](unsigned char*, unsigned place) {
    std::memset(shared_bytes_at(place, 2), 0xFF, 2);
    bytes += 2;
  });
  emulated::delay([=] {
    for_box(map, target, at, [](const unsigned char* source, unsigned place) {
      if (source)
        std::memcpy(shared_memory + place, source, 2);
      else
        std::memset(shared_memory + place, 0, 2);
    });
    barrier_complete(barrier, bytes);
  });
}

inline void tma_store(const TensorMap* map, unsigned source, MapPoint at) {
  emulated::this_thread().stores.push_back([=] {
    for_box(map, source, at, [](unsigned char* target, unsigned place) {
      if (target) std::memcpy(target, shared_memory + place, 2);
    });
  });
}
inline void tma_store_commit() {}
inline void tma_store_wait_read() {
  for (const auto& store : emulated::this_thread().stores) store();
  emulated::this_thread().stores.clear();
}
inline void tma_store_wait() { tma_store_wait_read(); }
inline void fence_async_proxy() {}

}  // namespace flash_attn::cuda
