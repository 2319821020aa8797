// math/philox.h against Random123's known answers, and the dropout pattern against the oracle's own.
#include "math/philox.h"
#include "tests/oracle/random_bits.h"

#include <gtest/gtest.h>

namespace flash_attn {
namespace {

void expect_words(const PhiloxWords& words, unsigned a, unsigned b, unsigned c, unsigned d) {
  EXPECT_EQ(words.word[0], a);
  EXPECT_EQ(words.word[1], b);
  EXPECT_EQ(words.word[2], c);
  EXPECT_EQ(words.word[3], d);
}

TEST(Philox, KnownAnswers) {
  const unsigned ones = 0xFFFFFFFF;
  expect_words(philox4x32(0, 0, {{0, 0, 0, 0}}), 0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8);
  expect_words(philox4x32(ones, ones, {{ones, ones, ones, ones}}), 0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD);
  expect_words(philox4x32(0xA4093822, 0x299F31D0, {{0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}}), 0xD16CFE09, 0x94FDCCEB,
               0x5001E420, 0x24126EA1);
}

TEST(Philox, DropoutPatternIsTheOracles) {
  const uint64_t seed = 0x0123456789ABCDEFull, offset = 0xFEDCBA9876543210ull;
  const DropoutKey key = dropout_key(seed, offset);
  const unsigned threshold = dropout_threshold(0.37f);
  for (long long row = 0; row < 40; ++row) {
    for (long long column = 0; column < 40; ++column) {
      const bool dropped = oracle::dropout_draw(seed, offset, 3, 5, row, column) < threshold;
      ASSERT_EQ(is_dropped(key, threshold, 3, 5, row, column), dropped) << row << ' ' << column;
    }
  }
  // Far rows and keys, where 32-bit products would wrap.
  for (const long long base : {1LL << 20, (1LL << 31) - 5}) {
    for (long long step = 0; step < 20; ++step) {
      const bool dropped = oracle::dropout_draw(seed, offset, 70000, 69999, base + step, base - step) < threshold;
      ASSERT_EQ(is_dropped(key, threshold, 70000, 69999, base + step, base - step), dropped);
    }
  }
}

TEST(Philox, LaneAlongARow) {
  const DropoutKey key = dropout_key(0x0123456789ABCDEFull, 42);
  const DropoutRounds rounds = dropout_rounds(key);
  for (const long long row : {0LL, 5LL, 16LL, 1000003LL, (1LL << 31) - 9}) {
    for (const long long pair : {0LL, 2LL, 6LL}) {
      const DropoutLane lane = dropout_lane(rounds, 70000, 69999, row, pair);
      for (const unsigned tile : {0u, 1u, 77u, 0x7FFFFFFu}) {
        const PhiloxWords words = dropout_words(key, 70000, 69999, row, 16LL * tile + pair);
        const PhiloxWords again = dropout_words(rounds, lane, tile);
        for (int n = 0; n < 4; ++n) ASSERT_EQ(again.word[n], words.word[n]) << row << ' ' << pair << ' ' << tile << ' ' << n;
      }
    }
  }
}

TEST(Philox, Threshold) {
  EXPECT_EQ(dropout_threshold(0.0f), 0u);
  EXPECT_EQ(dropout_threshold(0.5f), 32768u);
  EXPECT_EQ(dropout_threshold(0.1f), 6554u);
  EXPECT_EQ(dropout_threshold(0.99999f), 65535u);
}

}  // namespace
}  // namespace flash_attn
