// Dropout in the Hopper kernel: which weights of a block are dropped, as masks over the packed weights. One call of the generator
// serves just the eight weights that a thread holds of 16 keys. It needs no scores: the draws run while those are being multiplied.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/pairs.cuh"
#include "cuda/kernels/tile/scores.cuh"

namespace flash_attn::cuda {

// Of the later rounds' keys, which every call needs, the values themselves are kept, not how they came about; unless registers are
// too dear.
template <bool kKeeps>
__device__ __forceinline__ DropoutRounds keep_rounds(DropoutKey key) {
  DropoutRounds rounds = dropout_rounds(key);
  if constexpr (!kKeeps) return rounds;
#pragma unroll
  for (int n = 3; n < 10; ++n) {
    rounds.key0[n] = forget(rounds.key0[n]);
    rounds.key1[n] = forget(rounds.key1[n]);
  }
  return rounds;
}

// Threads' words: bits of weights [4 t + 2 half + r], row r, keys 16 t + 8 half + {0, 1} of the thread's own. `tile` counts 16
// keys.
template <int kTileK, bool kFew>
__device__ __forceinline__ void draw_dropped(unsigned (&dropped)[kTileK / 4], const DropoutRounds& rounds, const DropoutLane& lane,
                                             unsigned threshold, unsigned tile) {
  // Two calls at a time: one leaves the units idle, all of them would take the registers of the accumulators.
  constexpr int kAtOnce = 2;
#pragma unroll
  for (int t = 0; t < kTileK / 16; ++t) {
    if (t % kAtOnce == 0) tile = forget(tile);
    const PhiloxWords words = dropout_words(rounds, lane, tile + static_cast<unsigned>(t));
#pragma unroll
    for (int n = 0; n < 4; ++n)
      dropped[4 * t + n % 2 * 2 + n / 2] =
          kFew ? halves_below(words.word[n], threshold) : halves_up_to(words.word[n], threshold - 1);
  }
}

template <int kTileK>
__device__ __forceinline__ void find_dropped(unsigned (&dropped)[kTileK / 4], const DropoutRounds& rounds, const DropoutLane& lane,
                                             unsigned threshold, unsigned tile) {
  if (threshold < 0x8000u)
    draw_dropped<kTileK, true>(dropped, rounds, lane, threshold, tile);
  else
    draw_dropped<kTileK, false>(dropped, rounds, lane, threshold, tile);
}

}  // namespace flash_attn::cuda
