// How a backward run is cut: each key head's stacked rows into ranges of row blocks. A range owns the dQ of its rows and has sums
// of dK and dV of its own, merged in order. Pure functions of the problem and the requests' lengths, never of the number of
// threads.
#pragma once

#include "core/problem.h"
#include "cpu/kernels/params.h"

#include <cstdint>

namespace flash_attn::cpu {

// a * b, cut at more than any memory and far from overflow: extents may be absurd, and a plan that asks for so much can never run.
int64_t bounded_product(int64_t a, int64_t b);

struct GradientTiling {
  GradientFormat format;
  int block_rows = 0, block_keys = 0;
  int threads = 1;
  int64_t padded_d = 0, padded_d_v = 0;
  int64_t kernel_scratch_bytes = 0;  // a thread's, followed by sums of dK and dV for max_s_k keys
  int64_t thread_scratch_bytes = 0;

  // A range's sums: dK's, then dV's.
  int64_t dv_offset(int64_t s_k) const { return round_up(s_k, format.key_pad) * padded_d; }
  int64_t sum_floats(int64_t s_k) const { return round_up(s_k, format.key_pad) * (padded_d + padded_d_v); }
};

GradientTiling choose_gradient_tiling(const Problem& problem, const KernelTable& table, int threads);

// As that, for every problem whose extents do not exceed this one's: no thread needs more memory.
GradientTiling largest_gradient_tiling(const Problem& maxima, const KernelTable& table, int threads);

// The ranges of one request's key heads.
struct GradientSchedule {
  int64_t rows = 0;  // s_q * group
  int64_t range_rows = 0;
  int64_t ranges = 1;

  int64_t tasks(int64_t h_k) const { return h_k * ranges; }
  int64_t row_begin(int64_t range) const { return range * range_rows; }
  int64_t row_end(int64_t range) const { return range + 1 == ranges ? rows : (range + 1) * range_rows; }
};

// What a request has to do, of all key heads: row blocks times keys, and the floats of dK and dV.
struct GradientWork {
  double products = 0, sum_floats = 0;
};
GradientWork& operator+=(GradientWork& sum, const GradientWork& more);
GradientWork gradient_work(const Problem& problem, const GradientTiling& tiling, int64_t s_q, int64_t s_k);

// `all_work` is the whole call's, and is ignored when batch invariance is asked for.
GradientSchedule schedule_gradients(const Problem& problem, const GradientTiling& tiling, int64_t s_q, int64_t s_k,
                                    const GradientWork& all_work);

// The sizes that the run's arrays never exceed, whatever the lengths; `for_smaller`: nor those of a problem of smaller extents.
struct GradientBound {
  int64_t ranges = 0;      // of all requests and key heads
  int64_t sum_floats = 0;  // dK and dV of the ranges of requests that have several
  int64_t range_keys = 0;  // keys times ranges
};
GradientBound gradient_bound(const Problem& problem, const GradientTiling& tiling, bool for_smaller);

}  // namespace flash_attn::cpu
