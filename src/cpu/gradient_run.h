// One backward run: what its tasks read and where they leave what others merge. Lives on the caller's stack while the threads work.
#pragma once

#include "core/problem.h"
#include "cpu/gradient_schedule.h"
#include "cpu/kernels/params.h"

#include <cstdint>

namespace flash_attn::cpu {

// Where a request's tasks and sums begin; one more, at the end, counts all.
struct GradientPlace {
  GradientSchedule schedule;
  int64_t task = 0, merge = 0, range = 0, sum = 0, by_key = 0, by_row = 0;
};

// How a bias gradient comes about. An element belongs to one row and key of one head (owned) or to those of several heads or
// requests (shared: made tile by tile in a pass of its own, as sums of that size would not be linear in the length), or it is
// summed over a range's rows or over keys.
enum class BiasGradient { none, owned, shared, by_key, by_row };
BiasGradient bias_gradient_of(const Problem& problem);

// Tiles of a shared bias gradient.
struct BiasTiles {
  int64_t batches = 0, heads = 0, rows = 0, columns = 0;
  int64_t count() const { return batches * heads * rows * columns; }
};

struct GradientRun {
  const Problem& problem;
  const KernelTable& table;
  const GradientTiling& tiling;
  const fa_attention_args& args;
  BackwardParams params;
  BiasGradient bias;
  BiasTiles tiles;
  char* threads;
  GradientPlace* places;   // [b + 1]
  int64_t* hulls;          // [ranges][2]
  double *sinks, *slopes;  // [ranges][group]; null if not wanted
  float* by_key;           // [ranges][group][s_k]; null if not wanted
  float* by_row;           // [rows]; null if not wanted
  float* sums;             // dK and dV of each range, where there are several
};

// Write the gradients of sinks and slopes, and those of a bias that was summed over rows or keys: in the order of requests, heads
// and ranges.
void collect_sums(GradientRun& run);

// Write zeros to the rows of dq, dk and dv that no request uses: those around request `index`, or for index b those outside all.
void clear_dead_rows(GradientRun& run, int64_t index);
inline int64_t dead_row_tasks(const Problem& problem) { return problem.b + 1; }

}  // namespace flash_attn::cpu
