// Dropout's random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC11) with the counter
// layout of docs/design.md, so that every backend, tile and split drops the very same weights. Compiles under NVRTC.
#pragma once

#include "math/types.h"

namespace flash_attn {

struct PhiloxWords {
  unsigned int word[4];
};

FA_HOST_DEVICE PhiloxWords philox4x32(unsigned int key0, unsigned int key1, PhiloxWords counter) {
  for (int round = 0; round < 10; ++round) {
    const unsigned long long a = 0xD2511F53ull * counter.word[0];
    const unsigned long long b = 0xCD9E8D57ull * counter.word[2];
    counter = PhiloxWords{{static_cast<unsigned int>(b >> 32) ^ counter.word[1] ^ key0, static_cast<unsigned int>(b),
                           static_cast<unsigned int>(a >> 32) ^ counter.word[3] ^ key1, static_cast<unsigned int>(a)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Key of a run, drawn once from its seed and offset.
struct DropoutKey {
  unsigned int key0 = 0;
  unsigned int key1 = 0;
};

FA_HOST_DEVICE DropoutKey dropout_key(unsigned long long seed, unsigned long long offset) {
  const PhiloxWords words =
      philox4x32(static_cast<unsigned int>(seed), static_cast<unsigned int>(seed >> 32),
                 PhiloxWords{{static_cast<unsigned int>(offset), static_cast<unsigned int>(offset >> 32), 0, 0}});
  return DropoutKey{words.word[0], words.word[1]};
}

// A weight is dropped iff its 16-bit draw is below this.
FA_HOST_DEVICE unsigned int dropout_threshold(float p) { return static_cast<unsigned int>(p * 65536.0f + 0.5f); }

// The eight draws that cover rows {row%8, +8} x keys {pair, +8} x 2 of a 16x16 tile: the words for one lane of the tile.
FA_HOST_DEVICE PhiloxWords dropout_words(DropoutKey key, unsigned int batch, unsigned int head, long long row, long long column) {
  const unsigned int lane = static_cast<unsigned int>((row % 8) * 4 + (column % 8) / 2);
  return philox4x32(
      key.key0, key.key1,
      PhiloxWords{{batch, head, static_cast<unsigned int>(row / 16) * 32u + lane, static_cast<unsigned int>(column / 16)}});
}

// The same for a lane that goes along a row: what the column does not reach of a call's first rounds is computed once, and the
// later rounds' keys are kept. A call is then 16 products instead of 20.
struct DropoutRounds {
  unsigned int key0[10], key1[10];
};

FA_HOST_DEVICE DropoutRounds dropout_rounds(DropoutKey key) {
  DropoutRounds rounds = {};
  for (unsigned int n = 0; n < 10; ++n) {
    rounds.key0[n] = key.key0 + n * 0x9E3779B9u;
    rounds.key1[n] = key.key1 + n * 0xBB67AE85u;
  }
  return rounds;
}

// Of counter word 2 after the first round all but the column; words that products are mixed with: word 0 after the second, both
// after the third, word 0 after the fourth.
struct DropoutLane {
  unsigned int second, first_after_2, first_after_3, second_after_3, first_after_4;
};

FA_HOST_DEVICE DropoutLane dropout_lane(const DropoutRounds& rounds, unsigned int batch, unsigned int head, long long row,
                                        long long column) {
  constexpr unsigned long long kFirst = 0xD2511F53ull, kSecond = 0xCD9E8D57ull;
  const auto high = [](unsigned long long x) { return static_cast<unsigned int>(x >> 32); };
  const auto low = [](unsigned long long x) { return static_cast<unsigned int>(x); };
  const unsigned int lane = static_cast<unsigned int>((row % 8) * 4 + (column % 8) / 2);
  const unsigned long long a1 = kFirst * batch, b1 = kSecond * (static_cast<unsigned int>(row / 16) * 32u + lane);
  const unsigned long long a2 = kFirst * (high(b1) ^ head ^ rounds.key0[0]);
  const unsigned long long b3 = kSecond * (high(a2) ^ low(a1) ^ rounds.key1[1]);
  return {high(a1) ^ rounds.key1[0], low(b1) ^ rounds.key0[1], high(b3) ^ rounds.key0[2], low(a2) ^ rounds.key1[2],
          low(b3) ^ rounds.key0[3]};
}

// `tile` is column / 16.
FA_HOST_DEVICE PhiloxWords dropout_words(const DropoutRounds& rounds, const DropoutLane& lane, unsigned int tile) {
  constexpr unsigned long long kFirst = 0xD2511F53ull, kSecond = 0xCD9E8D57ull;
  const auto high = [](unsigned long long x) { return static_cast<unsigned int>(x >> 32); };
  const auto low = [](unsigned long long x) { return static_cast<unsigned int>(x); };
  const unsigned long long b2 = kSecond * (lane.second ^ tile);
  const unsigned long long a3 = kFirst * (high(b2) ^ lane.first_after_2);
  unsigned long long a = kFirst * (low(b2) ^ lane.first_after_3), b = kSecond * (high(a3) ^ lane.second_after_3);
  PhiloxWords words{{high(b) ^ lane.first_after_4, low(b), high(a) ^ low(a3) ^ rounds.key1[3], low(a)}};
  for (int n = 4; n < 10; ++n) {
    a = kFirst * words.word[0];
    b = kSecond * words.word[2];
    words = PhiloxWords{{high(b) ^ words.word[1] ^ rounds.key0[n], low(b), high(a) ^ words.word[3] ^ rounds.key1[n], low(a)}};
  }
  return words;
}

FA_HOST_DEVICE bool is_dropped(DropoutKey key, unsigned int threshold, unsigned int batch, unsigned int head, long long row,
                               long long column) {
  const PhiloxWords words = dropout_words(key, batch, head, row, column);
  const unsigned int word = words.word[((row / 8) % 2) * 2 + (column / 8) % 2];
  const unsigned int draw = (word >> (16 * (column % 2))) & 0xFFFFu;
  return draw < threshold;
}

}  // namespace flash_attn
