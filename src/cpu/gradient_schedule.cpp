// Row ranges of a backward run. Ranges make enough tasks for every thread where heads are few; each costs memory in proportion to
// the keys, so there are no more than that.

#include "cpu/gradient_schedule.h"

#include <algorithm>
#include <cmath>

namespace flash_attn::cpu {
namespace {

constexpr int64_t kWantedTasks = 64;  // ranges until the call has this many tasks ...
constexpr int64_t kMostRanges = 16;   // ... but no more of a key head than this
// Ranges of all heads may have sums of this many floats together, or four times what dK and dV have.
constexpr int64_t kManySums = 64 * 1024 * 1024;
constexpr int64_t kFewRanges = 4;
constexpr int64_t kWantedBlocks = 8;
constexpr int64_t kMostBlockRows = 256;
constexpr int64_t kBlockKeys = 128;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A range's own sums of dK and dV cost it less than 2 % of its time from 256 rows on, 4 % with 128, which is the price of several
// tasks.
int64_t most_ranges(int64_t rows) { return std::max(rows / 256, std::min<int64_t>(8, rows / 128)); }

// All requests have the same lengths, those of the tensors.
bool is_uniform(const Problem& p) {
  const uint32_t varying = FA_INPUT_SEQUSED_Q | FA_INPUT_SEQUSED_K | FA_INPUT_LEFTPAD_K;
  return !p.packed_q && !p.packed_k && (p.inputs & varying) == 0;
}

GradientTiling tiling_for(const Problem& problem, const KernelTable& table, int threads, int64_t block_rows) {
  GradientTiling tiling;
  const bool all_bf16 = problem.dtype == DType::bf16 && problem.o_dtype == DType::bf16;
  tiling.format = all_bf16 ? table.gradients_bf16 : table.gradients_f32;
  tiling.padded_d = round_up(problem.d, tiling.format.pad);
  tiling.padded_d_v = round_up(problem.d_v, tiling.format.pad);
  tiling.block_rows = static_cast<int>(std::max<int64_t>(block_rows / tiling.format.lanes, 1) * tiling.format.lanes);
  tiling.block_keys = kBlockKeys;
  tiling.threads = threads;
  tiling.kernel_scratch_bytes = GradientScratch(tiling.format, problem.d, problem.d_v, tiling.block_rows, tiling.block_keys).total;
  return tiling;
}

// A thread's memory: the kernel's, and the sums of a head whose rows are one range.
void add_thread_scratch(const Problem& problem, GradientTiling* tiling) {
  const int64_t keys = round_up(problem.max_s_k, tiling->format.key_pad);
  const int64_t sums = bounded_product(keys, 4 * (tiling->padded_d + tiling->padded_d_v));
  tiling->thread_scratch_bytes = round_up(tiling->kernel_scratch_bytes + sums, 64);
}

// The one schedule of all requests.
GradientSchedule uniform_schedule(const Problem& problem, const GradientTiling& tiling) {
  const GradientWork one = gradient_work(problem, tiling, problem.max_s_q, problem.max_s_k);
  const double b = static_cast<double>(problem.b);
  return schedule_gradients(problem, tiling, problem.max_s_q, problem.max_s_k, {b * one.products, b * one.sum_floats});
}

}  // namespace

int64_t bounded_product(int64_t a, int64_t b) {
  constexpr int64_t kBeyondMemory = int64_t{1} << 50;
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? kBeyondMemory : std::min(product, kBeyondMemory);
}

GradientTiling choose_gradient_tiling(const Problem& problem, const KernelTable& table, int threads) {
  // A block's operands, and the weights of a block of keys, stay in a core's second cache.
  constexpr int64_t kOperandFloats = 64 * 1024;
  const int64_t lanes = table.gradients_f32.lanes;
  const int64_t longest = std::min(kMostBlockRows, kOperandFloats / (problem.d + problem.d_v));
  int64_t rows = std::max(longest, 2 * lanes);
  // Short calls take shorter blocks, to have several for each thread; but a block must not depend on a request's neighbours.
  const int64_t all_rows = bounded_product(problem.total_q, problem.h_q);
  if (!problem.has_flag(FA_FLAG_BATCH_INVARIANT))
    rows = std::min(rows, std::max(round_up(ceil_div(std::max<int64_t>(all_rows, 1), kWantedBlocks), lanes), 2 * lanes));
  GradientTiling tiling = tiling_for(problem, table, threads, rows);
  if (is_uniform(problem) && uniform_schedule(problem, tiling).ranges > 1)
    tiling.thread_scratch_bytes = tiling.kernel_scratch_bytes;  // each range has sums of its own
  else
    add_thread_scratch(problem, &tiling);
  return tiling;
}

GradientTiling largest_gradient_tiling(const Problem& maxima, const KernelTable& table, int threads) {
  GradientTiling tiling = tiling_for(maxima, table, threads, kMostBlockRows);
  add_thread_scratch(maxima, &tiling);
  return tiling;
}

GradientWork& operator+=(GradientWork& sum, const GradientWork& more) {
  sum.products += more.products;
  sum.sum_floats += more.sum_floats;
  return sum;
}

GradientWork gradient_work(const Problem& problem, const GradientTiling& tiling, int64_t s_q, int64_t s_k) {
  const double blocks = static_cast<double>(ceil_div(s_q * problem.group, tiling.block_rows));
  const double heads = static_cast<double>(problem.h_k);
  return {heads * blocks * static_cast<double>(std::max<int64_t>(s_k, 1)), heads * static_cast<double>(tiling.sum_floats(s_k))};
}

GradientSchedule schedule_gradients(const Problem& problem, const GradientTiling& tiling, int64_t s_q, int64_t s_k,
                                    const GradientWork& all_work) {
  GradientSchedule schedule;
  schedule.rows = s_q * problem.group;
  const int64_t blocks = ceil_div(schedule.rows, tiling.block_rows);
  schedule.range_rows = schedule.rows;
  const GradientWork own = gradient_work(problem, tiling, s_q, s_k);
  const GradientWork& all = problem.has_flag(FA_FLAG_BATCH_INVARIANT) ? own : all_work;
  if (blocks <= 1) return schedule;
  const double share = own.products / static_cast<double>(problem.h_k) / all.products;
  const int64_t wanted = static_cast<int64_t>(std::ceil(share * static_cast<double>(kWantedTasks) - 1e-6));
  const int64_t affordable = std::max(kFewRanges, static_cast<int64_t>(static_cast<double>(kManySums) / (all.sum_floats + 1)));
  const int64_t ranges = std::max<int64_t>(std::min({wanted, kMostRanges, affordable, most_ranges(schedule.rows), blocks}), 1);
  schedule.range_rows = ceil_div(blocks, ranges) * tiling.block_rows;
  schedule.ranges = ceil_div(schedule.rows, schedule.range_rows);
  return schedule;
}

GradientBound gradient_bound(const Problem& problem, const GradientTiling& tiling, bool for_smaller) {
  GradientBound bound;
  if (is_uniform(problem) && !for_smaller) {
    const GradientSchedule schedule = uniform_schedule(problem, tiling);
    bound.ranges = bounded_product(problem.b, schedule.tasks(problem.h_k));
    bound.range_keys = bounded_product(bound.ranges, problem.max_s_k);
    bound.sum_floats = schedule.ranges > 1 ? bounded_product(bound.ranges, tiling.sum_floats(problem.max_s_k)) : 0;
    return bound;
  }
  const int64_t heads = bounded_product(problem.b, problem.h_k);
  const int64_t all_keys = problem.packed_k ? problem.k_rows : bounded_product(problem.b, problem.max_s_k);
  int64_t split_keys = bounded_product(kMostRanges * problem.h_k, all_keys);  // keys times ranges, where there are several
  if (problem.has_flag(FA_FLAG_BATCH_INVARIANT)) {
    bound.ranges = bounded_product(problem.b, std::min(kMostRanges * problem.h_k, kWantedTasks + problem.h_k));
    split_keys = std::min(split_keys, bounded_product(kWantedTasks + problem.h_k, all_keys));
  } else {
    // A share of x tasks becomes less than x + 1 ranges; where there are two or more, less than 2 x.
    bound.ranges = heads + kWantedTasks;
    split_keys = std::min(split_keys, bounded_product(2 * kWantedTasks, problem.max_s_k));
  }
  bound.range_keys = split_keys + bounded_product(problem.h_k, all_keys);
  // Each range's keys are padded.
  split_keys += bounded_product(bound.ranges, tiling.format.key_pad - 1);
  bound.sum_floats = bounded_product(split_keys, tiling.padded_d + tiling.padded_d_v);
  const int64_t once = bounded_product(
      problem.h_k, bounded_product(all_keys + problem.b * tiling.format.key_pad, tiling.padded_d + tiling.padded_d_v));
  const int64_t affordable = std::max(bounded_product(kFewRanges, once), kManySums);
  if (!problem.has_flag(FA_FLAG_BATCH_INVARIANT)) bound.sum_floats = std::min(bound.sum_floats, affordable);
  return bound;
}

}  // namespace flash_attn::cpu
