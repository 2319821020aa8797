// Emulated: 16-bit elements to floats and back, rounded to nearest even.
#pragma once

#include "emulated_block.h"
#include "math/types.h"

namespace flash_attn::cuda {

inline float f16_to_float(unsigned short x) {
  const int exponent = (x >> 10) & 31, fraction = x & 1023;
  const float sign = x >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                               : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25));
}

inline unsigned short float_to_f16(float x) {
  const unsigned short sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  if (x != x) return 0x7FFF;
  if (size >= 65520.0f) return sign | 0x7C00;
  // In units of the last place, which std::nearbyint rounds as the hardware does.
  const int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
  const int units = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return static_cast<unsigned short>(sign | (((exponent + 14) << 10) + units));
}

inline unsigned short float_to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return 0x7FFF;
  return static_cast<unsigned short>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

template <DType kType>
float widen(unsigned short x) {
  return kType == DType::bf16 ? __uint_as_float(static_cast<unsigned>(x) << 16) : f16_to_float(x);
}

template <DType kType>
float2 unpack2(unsigned pair) {
  return {widen<kType>(static_cast<unsigned short>(pair)), widen<kType>(static_cast<unsigned short>(pair >> 16))};
}

}  // namespace flash_attn::cuda
