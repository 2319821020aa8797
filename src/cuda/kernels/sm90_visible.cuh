// Which keys of a block the Hopper kernel's rows see, as bits: the assembler turns a word of them into predicates seven at a time,
// so that all that hides keys together costs little more than one selection a score. A thread's words hold its own keys in its own
// order: bit 2 j + e is column 8 j + e, counted from the thread's first one; a word reaches over 128 keys.
#pragma once

#include "cuda/kernels/sm90_configs.h"
#include "cuda/kernels/tile/scores.cuh"

namespace flash_attn::cuda {

template <int kTileK>
struct VisibleKeys {
  static constexpr int kWords = (kTileK + 127) / 128;
  unsigned word[kWords];
};

template <int kTileK>
__device__ __forceinline__ VisibleKeys<kTileK> common_keys(const VisibleKeys<kTileK>& a, const VisibleKeys<kTileK>& b) {
  VisibleKeys<kTileK> both;
#pragma unroll
  for (int n = 0; n < both.kWords; ++n) both.word[n] = a.word[n] & b.word[n];
  return both;
}

// Bits of the columns below `limit`.
__device__ __forceinline__ unsigned columns_below(int limit) {
  const int columns = max(limit, 0), bits = columns / 8 * 2 + min(columns % 8, 2);
  return bits >= 32 ? ~0u : (1u << bits) - 1u;
}

// What the limits show of a row: [lo, hi) and [0, first), counted from the thread's first column.
template <int kTileK, bool kHasLeft>
__device__ __forceinline__ VisibleKeys<kTileK> keys_inside(const Limits& limits) {
  VisibleKeys<kTileK> keys;
#pragma unroll
  for (int n = 0; n < keys.kWords; ++n) {
    keys.word[n] = columns_below(limits.hi - 128 * n);
    if constexpr (kHasLeft)
      keys.word[n] = (keys.word[n] & ~columns_below(limits.lo - 128 * n)) | columns_below(limits.first - 128 * n);
  }
  return keys;
}

// Bits of 32 keys from `at` on as a tree row of 64-bit words holds them; keys before 0 are visible.
__device__ __forceinline__ unsigned tree_bits(const unsigned long long* row, int words, int at) {
  if (at <= -32) return ~0u;
  if (at < 0) return ~(~0u << -at) | (words > 0 ? static_cast<unsigned>(row[0]) << -at : 0u);
  const int word = at / 64, shift = at % 64;
  const unsigned long long low = word < words ? row[word] >> shift : 0ull;
  return static_cast<unsigned>(shift > 32 && word + 1 < words ? low | row[word + 1] << (64 - shift) : low);
}

// Of 32 keys those that this thread holds, as 8 bits. The product brings the four pairs side by side.
__device__ __forceinline__ unsigned own_columns(unsigned bits) { return (bits & 0x03030303u) * 0x01041040u >> 24; }

// Takes away what a tree row does not show; `at` is the thread's first key less the prefix. Without a row all is shown.
template <int kTileK>
__device__ __forceinline__ void show_branches(VisibleKeys<kTileK>& keys, const unsigned long long* row, int words, int at) {
  if (row == nullptr) return;
#pragma unroll
  for (int n = 0; n < keys.kWords; ++n) {
    unsigned shown = 0;
#pragma unroll
    for (int column = 128 * n; column < min(kTileK, 128 * n + 128); column += 32)
      shown |= own_columns(tree_bits(row, words, at + column)) << (column % 128 / 4);
    keys.word[n] &= shown;
  }
}

template <int kTileK>
__device__ __forceinline__ void hide_others(float (&S)[kTileK / 2], const VisibleKeys<kTileK>& keys, int r) {
#pragma unroll
  for (int n = 0; n < kTileK / 4; ++n)
    if (((keys.word[n / 32] >> n % 32) & 1) == 0) S[n / 2 * 4 + 2 * r + n % 2] = minus_infinity();
}

}  // namespace flash_attn::cuda
