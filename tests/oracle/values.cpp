// IEEE half and bfloat16 conversions by the book: one bit pattern at a time, nearest even, subnormals kept.
#include "tests/oracle/values.h"

#include <array>
#include <cmath>
#include <cstring>
#include <memory>

namespace flash_attn::oracle {
namespace {

float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float half_to_float(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int fraction = half & 1023;
  const float sign = half & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction != 0 ? std::nanf("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}

uint16_t float_to_half(float value) {
  const uint16_t sign = float_to_bits(value) >> 31 ? 0x8000 : 0;
  if (std::isnan(value)) return sign | 0x7E00;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return sign | 0x7C00;
  if (magnitude == 0.0f) return sign;
  int exponent = std::ilogb(magnitude);
  if (exponent < -14) exponent = -14;
  // Units of the last place; nearbyint rounds to even in the default mode. A carry into the next binade is right by the encoding.
  const uint16_t units = static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign + ((exponent + 14) << 10) + units);
}

uint16_t float_to_bfloat(float value) {
  const uint32_t bits = float_to_bits(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  const uint32_t below = bits & 0xFFFF;
  uint32_t upper = bits >> 16;
  if (below > 0x8000 || (below == 0x8000 && (upper & 1))) ++upper;
  return static_cast<uint16_t>(upper);
}

// All 65536 halves, because ldexp for each element would make the oracle slow.
const float* half_table() {
  static const std::unique_ptr<float[]> table = [] {
    auto values = std::make_unique<float[]>(65536);
    for (uint32_t bits = 0; bits < 65536; ++bits) values[bits] = half_to_float(static_cast<uint16_t>(bits));
    return values;
  }();
  return table.get();
}

template <class T>
T read_at(const void* base, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(base) + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <class T>
void write_at(void* base, int64_t index, T value) {
  std::memcpy(static_cast<char*>(base) + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

}  // namespace

double load_value(const void* base, fa_dtype dtype, int64_t index) {
  switch (dtype) {
    case FA_DTYPE_F32:
      return read_at<float>(base, index);
    case FA_DTYPE_F16:
      return half_table()[read_at<uint16_t>(base, index)];
    case FA_DTYPE_BF16:
      return bits_to_float(static_cast<uint32_t>(read_at<uint16_t>(base, index)) << 16);
    default:
      return std::nan("");
  }
}

void store_value(void* base, fa_dtype dtype, int64_t index, float value) {
  if (dtype == FA_DTYPE_F32) write_at(base, index, value);
  if (dtype == FA_DTYPE_F16) write_at(base, index, float_to_half(value));
  if (dtype == FA_DTYPE_BF16) write_at(base, index, float_to_bfloat(value));
}

float round_value(fa_dtype dtype, float value) {
  if (dtype == FA_DTYPE_F16) return half_to_float(float_to_half(value));
  if (dtype == FA_DTYPE_BF16) return bits_to_float(static_cast<uint32_t>(float_to_bfloat(value)) << 16);
  return value;
}

}  // namespace flash_attn::oracle
