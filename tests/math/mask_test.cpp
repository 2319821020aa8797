// math/mask.h: the interval of each row against a loop over the definitions.
#include "math/mask.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <random>

namespace flash_attn {
namespace test {
KeyInterval device_key_interval(const MaskRule& rule, long long i);  // mask_device.cpp
}
namespace {

bool defined_visible(const MaskRule& rule, long long i, long long j) {
  const long long diagonal = i + rule.delta;
  if (j < 0 || j >= rule.s_k) return false;
  if (rule.causal && j > diagonal) return false;
  if (rule.window_right >= 0 && j > diagonal + rule.window_right) return false;
  bool is_left_ok = rule.window_left < 0 || j >= diagonal - rule.window_left;
  if (rule.chunk > 0) {
    // Chunk numbers by counting, so that negative positions need no division.
    long long begin = 0;
    while (begin > diagonal) begin -= rule.chunk;
    while (begin + rule.chunk <= diagonal) begin += rule.chunk;
    if (j >= begin + rule.chunk) return false;
    is_left_ok = is_left_ok && j >= begin;
  }
  return is_left_ok || j < rule.first_keys;
}

void check_rule(const MaskRule& rule, long long s_q) {
  for (long long i = 0; i < s_q; ++i) {
    const KeyInterval keys = key_interval(rule, i);
    ASSERT_LE(0, keys.first);
    ASSERT_LE(keys.first, keys.lo);
    ASSERT_LE(keys.lo, keys.hi);
    ASSERT_LE(keys.hi, rule.s_k);
    for (long long j = 0; j < rule.s_k; ++j) {
      ASSERT_EQ(is_visible(keys, j), defined_visible(rule, i, j))
          << "i " << i << " j " << j << " s_k " << rule.s_k << " delta " << rule.delta << " window " << rule.window_left << ','
          << rule.window_right << " first " << rule.first_keys << " chunk " << rule.chunk << " causal " << rule.causal;
    }
  }
}

TEST(Mask, IntervalIsTheDefinition) {
  for (long long s_k = 0; s_k <= 11; ++s_k) {
    for (long long delta = -9; delta <= 12; delta += 3) {
      for (const long long left : {-1, 0, 1, 4}) {
        for (const long long right : {-1, 0, 2, 20}) {
          for (const long long first : {0, 1, 5, 30}) {
            for (const long long chunk : {0, 1, 4, 50}) {
              for (const bool causal : {false, true}) check_rule({s_k, delta, left, right, first, chunk, causal}, 8);
            }
          }
        }
      }
    }
  }
}

// A key sees a query exactly when the query sees the key.
void check_queries(const MaskRule& rule, long long s_q) {
  for (long long j = -1; j <= rule.s_k; ++j) {
    const QueryInterval queries = query_interval(rule, s_q, j);
    ASSERT_LE(0, queries.lo);
    ASSERT_LE(queries.lo, queries.hi);
    ASSERT_LE(queries.hi, s_q);
    for (long long i = 0; i < s_q; ++i) {
      ASSERT_EQ(i >= queries.lo && i < queries.hi, defined_visible(rule, i, j))
          << "i " << i << " j " << j << " s_k " << rule.s_k << " delta " << rule.delta << " window " << rule.window_left << ','
          << rule.window_right << " chunk " << rule.chunk << " causal " << rule.causal;
    }
  }
}

TEST(Mask, QueryIntervalIsTheOtherWayRound) {
  for (long long s_k = 0; s_k <= 11; ++s_k) {
    for (long long delta = -9; delta <= 12; delta += 3) {
      for (const long long left : {-1, 0, 1, 4}) {
        for (const long long right : {-1, 0, 2, 20}) {
          for (const long long chunk : {0, 1, 4, 50}) {
            for (const bool causal : {false, true}) check_queries({s_k, delta, left, right, 0, chunk, causal}, 8);
          }
        }
      }
    }
  }
}

// GPU kernels divide 32 bits where the host divides 64; for as many keys as they serve nobody may see a difference.
TEST(Mask, DeviceSeesTheSameKeys) {
  std::mt19937_64 random(1);
  const long long sizes[] = {
      1, 2, 7, 100, 65536, (1LL << 30) - 1, 1LL << 30, (1LL << 30) + 1, 1LL << 31, (1LL << 31) + 5, 1LL << 40, 1LL << 59};
  const auto near_any = [&] { return sizes[random() % std::size(sizes)] + static_cast<long long>(random() % 5) - 2; };
  for (int round = 0; round < 200000; ++round) {
    MaskRule rule;
    rule.s_k = std::min(near_any(), 1LL << 30);
    if (rule.s_k < 0) rule.s_k = 0;
    rule.delta = random() % 2 ? near_any() : -near_any();
    rule.chunk = std::max(1LL, near_any());
    if (random() % 2) rule.window_left = std::max(0LL, near_any());
    rule.causal = random() % 2;
    const long long i = std::max(0LL, std::min(near_any(), 1LL << 31));
    const KeyInterval host = key_interval(rule, i), device = test::device_key_interval(rule, i);
    // Where nothing is seen, the bounds may differ.
    const bool is_empty = host.lo >= host.hi && device.lo >= device.hi;
    ASSERT_TRUE(is_empty || (host.lo == device.lo && host.hi == device.hi))
        << "s_k " << rule.s_k << " delta " << rule.delta << " chunk " << rule.chunk << " i " << i;
  }
}

TEST(Mask, FarFromOverflow) {
  const long long huge = 1LL << 40;
  check_rule({5, -huge, 3, 3, 1, 0, false}, 3);
  check_rule({5, huge, 3, 3, 1, 0, false}, 3);
  check_rule({5, 0, kUnbounded, kUnbounded, kUnbounded, 0, true}, 3);
  const KeyInterval keys = key_interval({huge, huge - 10, -1, -1, 0, kUnbounded, true}, 0);
  EXPECT_EQ(keys.lo, 0);
  EXPECT_EQ(keys.hi, huge - 9);
}

TEST(Mask, FloorDivision) {
  for (long long a = -20; a <= 20; ++a) {
    for (long long b = 1; b <= 7; ++b) {
      const long long quotient = floor_div(a, b);
      EXPECT_LE(quotient * b, a);
      EXPECT_GT((quotient + 1) * b, a);
    }
  }
}

TEST(Mask, TreeBits) {
  const unsigned long long row[2] = {0x8000000000000001ull, 0x2ull};
  for (long long bit = 0; bit < 128; ++bit) {
    EXPECT_EQ(tree_visible(row, 10, 10 + bit), bit == 0 || bit == 63 || bit == 65) << bit;
  }
  for (long long j = 0; j < 10; ++j) EXPECT_TRUE(tree_visible(row, 10, j));
}

}  // namespace
}  // namespace flash_attn
