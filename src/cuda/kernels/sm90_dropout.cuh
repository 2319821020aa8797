// Dropout in the Hopper kernel: which weights are dropped, as masks over the packed weights of 16 keys, which one call of the
// generator serves. Draws need no scores: they run between the exponentials, whose unit leaves most issue slots free.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/pairs.cuh"
#include "cuda/kernels/tile/scores.cuh"

namespace flash_attn::cuda {

// What all draws of a run share. A weight is dropped if its draw is below the threshold; thresholds above one half are asked the
// other way round, of complemented draws, so that halves compare as signed numbers.
struct DropoutRun {
  DropoutRounds rounds;
  unsigned flip, threshold;
};

// Of the later rounds' keys, which every call needs, the values themselves are kept, not how they came about; unless registers are
// too dear.
template <bool kKeeps>
__device__ __forceinline__ DropoutRun dropout_run(DropoutKey key, unsigned threshold) {
  DropoutRun run{dropout_rounds(key), 0u, threshold};
  if (threshold > 0x8000u) run.flip = ~0u, run.threshold = 0x10000u - threshold;
  run.rounds.key0[9] ^= run.flip;
  run.rounds.key1[9] ^= run.flip;
  if constexpr (!kKeeps) return run;
#pragma unroll
  for (int n = 3; n < 10; ++n) {
    run.rounds.key0[n] = forget(run.rounds.key0[n]);
    run.rounds.key1[n] = forget(run.rounds.key1[n]);
  }
  return run;
}

// Threads' words of 16 keys, counted by `tile`: kept[2 half + r], row r, keys 8 half + {0, 1} of the thread's own, is all ones
// where a weight stays.
__device__ __forceinline__ void draw_kept(unsigned (&kept)[4], const DropoutRun& run, const DropoutLane& lane, unsigned tile) {
  const PhiloxWords words = dropout_words(run.rounds, lane, tile);
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    // The last round's keys have complemented words 0 and 2 already.
    const unsigned draws = n % 2 == 0 ? words.word[n] : words.word[n] ^ run.flip;
    kept[n % 2 * 2 + n / 2] = ~(halves_below(draws, run.threshold) ^ run.flip);
  }
}

}  // namespace flash_attn::cuda
