// Philox4x32-10 and the dropout pattern, written for the oracle from the published algorithm (Salmon et al., SC11) and
// docs/design.md; it shares nothing with src/math.
#pragma once

#include <array>
#include <cstdint>

namespace flash_attn::oracle {

using Words = std::array<uint32_t, 4>;

// One bijection of the counter under a key. A round multiplies the even words, swaps halves and adds the key; then the key moves on
// by the Weyl constants (golden ratio, sqrt(3) - 1).
inline Words philox(std::array<uint32_t, 2> key, Words c) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t high0 = static_cast<uint32_t>(product0 >> 32), low0 = static_cast<uint32_t>(product0);
    const uint32_t high1 = static_cast<uint32_t>(product1 >> 32), low1 = static_cast<uint32_t>(product1);
    c = {high1 ^ c[1] ^ key[0], low1, high0 ^ c[3] ^ key[1], low0};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return c;
}

// The 16-bit draw of one weight.
inline uint32_t dropout_draw(uint64_t seed, uint64_t offset, uint32_t batch, uint32_t head, int64_t row, int64_t key) {
  const Words first = philox({static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
                             {static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32), 0, 0});
  const int64_t lane = (row % 8) * 4 + (key % 8) / 2;
  const Words draws =
      philox({first[0], first[1]}, {batch, head, static_cast<uint32_t>(row / 16 * 32 + lane), static_cast<uint32_t>(key / 16)});
  const uint32_t word = draws[(row / 8 % 2) * 2 + key / 8 % 2];
  return key % 2 == 0 ? word & 0xFFFF : word >> 16;
}

}  // namespace flash_attn::oracle
