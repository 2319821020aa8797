// What the driver stand-in writes for a tensor map and the emulated copies read; the 128-byte swizzle of shared memory.
#pragma once

#include <cstdint>

namespace emulated {

constexpr uint64_t kMapMagic = 0x70616d5f61666d65;

struct Map {
  uint64_t magic;
  uint64_t base;
  uint64_t extent[5];
  uint64_t stride[4];  // bytes
  uint16_t box[5];
};
static_assert(sizeof(Map) <= 128, "a tensor map has 128 bytes");

inline unsigned swizzled(unsigned address) { return address ^ (((address >> 7) & 7) << 4); }

}  // namespace emulated
