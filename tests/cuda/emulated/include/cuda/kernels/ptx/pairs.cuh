// Emulated: pairs, half by half, and bytes.
#pragma once

#include "emulated_block.h"

namespace flash_attn::cuda {

inline unsigned halves_up_to(unsigned x, unsigned last) {
  if (last > 0xffff) emulated::fail("no 16-bit number", last);
  return ((x & 0xffffu) <= last ? 0xffffu : 0u) | (x >> 16 <= last ? 0xffff0000u : 0u);
}
inline unsigned halves_below(unsigned x, unsigned limit) {
  if (limit > 0x8000) emulated::fail("no small limit", limit);
  return limit == 0 ? 0u : halves_up_to(x, limit - 1);
}

inline unsigned pick_bytes(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = static_cast<uint64_t>(y) << 32 | x;
  unsigned z = 0;
  for (unsigned n = 0; n < 4; ++n) z |= static_cast<unsigned>(both >> (selector >> (4 * n) & 7) * 8 & 0xff) << (8 * n);
  return z;
}

}  // namespace flash_attn::cuda
