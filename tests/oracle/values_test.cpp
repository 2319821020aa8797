// The oracle's conversions and random bits against published or hand-computed values.
#include "tests/oracle/random_bits.h"
#include "tests/oracle/values.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace flash_attn::oracle {
namespace {

uint16_t stored(fa_dtype dtype, float value) {
  uint16_t bits = 0;
  store_value(&bits, dtype, 0, value);
  return bits;
}

TEST(Values, HalfKnownBitPatterns) {
  EXPECT_EQ(stored(FA_DTYPE_F16, 1.0f), 0x3C00);
  EXPECT_EQ(stored(FA_DTYPE_F16, -2.0f), 0xC000);
  EXPECT_EQ(stored(FA_DTYPE_F16, 65504.0f), 0x7BFF);
  EXPECT_EQ(stored(FA_DTYPE_F16, 65519.0f), 0x7BFF);
  EXPECT_EQ(stored(FA_DTYPE_F16, 65520.0f), 0x7C00);
  EXPECT_EQ(stored(FA_DTYPE_F16, 0x1p-24f), 0x0001);
  EXPECT_EQ(stored(FA_DTYPE_F16, 0x1p-25f), 0x0000);  // tie, to even
  EXPECT_EQ(stored(FA_DTYPE_F16, 0x1.8p-24f), 0x0002);
  EXPECT_EQ(stored(FA_DTYPE_F16, 0x1.ffcp-15f), 0x03FF + 1);  // carries into the normals
  EXPECT_EQ(stored(FA_DTYPE_F16, 1.0f + 0x1p-11f), 0x3C00);
  EXPECT_EQ(stored(FA_DTYPE_F16, 1.0f + 0x1.8p-10f), 0x3C02);
  EXPECT_EQ(stored(FA_DTYPE_F16, -INFINITY), 0xFC00);
}

TEST(Values, BfloatKnownBitPatterns) {
  EXPECT_EQ(stored(FA_DTYPE_BF16, 1.0f), 0x3F80);
  EXPECT_EQ(stored(FA_DTYPE_BF16, 1.0f + 0x1p-8f), 0x3F80);  // tie, to even
  EXPECT_EQ(stored(FA_DTYPE_BF16, 1.0f + 0x1.8p-7f), 0x3F82);
  EXPECT_EQ(stored(FA_DTYPE_BF16, INFINITY), 0x7F80);
  EXPECT_EQ(stored(FA_DTYPE_BF16, 3.4e38f), 0x7F80);
}

// Every 16-bit value survives the way to double and back.
TEST(Values, RoundTrip) {
  for (const fa_dtype dtype : {FA_DTYPE_F16, FA_DTYPE_BF16}) {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      const auto half = static_cast<uint16_t>(bits);
      const double value = load_value(&half, dtype, 0);
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(round_value(dtype, static_cast<float>(value))));
      } else {
        ASSERT_EQ(stored(dtype, static_cast<float>(value)), half);
      }
    }
  }
}

// Rounding picks the nearer of the two neighbours.
TEST(Values, RoundsToNearest) {
  for (const fa_dtype dtype : {FA_DTYPE_F16, FA_DTYPE_BF16}) {
    for (uint16_t bits = 0x0001; bits < 0x7000; bits = static_cast<uint16_t>(bits + 37)) {
      const auto next = static_cast<uint16_t>(bits + 1);
      const double low = load_value(&bits, dtype, 0), high = load_value(&next, dtype, 0);
      EXPECT_EQ(stored(dtype, static_cast<float>(low + (high - low) * 0.4375)), bits);
      EXPECT_EQ(stored(dtype, static_cast<float>(low + (high - low) * 0.5625)), next);
    }
  }
}

// Random123's known answers for philox4x32-10.
TEST(Values, PhiloxKnownAnswers) {
  EXPECT_EQ(philox({0, 0}, {0, 0, 0, 0}), (Words{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}));
  EXPECT_EQ(philox({0xFFFFFFFF, 0xFFFFFFFF}, {0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}),
            (Words{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}));
  EXPECT_EQ(philox({0xA4093822, 0x299F31D0}, {0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}),
            (Words{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}));
}

}  // namespace
}  // namespace flash_attn::oracle
