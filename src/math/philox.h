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

FA_HOST_DEVICE bool is_dropped(DropoutKey key, unsigned int threshold, unsigned int batch, unsigned int head, long long row,
                               long long column) {
  const PhiloxWords words = dropout_words(key, batch, head, row, column);
  const unsigned int word = words.word[((row / 8) % 2) * 2 + (column / 8) % 2];
  const unsigned int draw = (word >> (16 * (column % 2))) & 0xFFFFu;
  return draw < threshold;
}

}  // namespace flash_attn
