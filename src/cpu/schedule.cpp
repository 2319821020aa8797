// Row blocks and key splits. Splits make enough tasks for every thread when there are few rows; 64 tasks serve up to 64 threads and
// cost next to nothing on one.

#include "cpu/schedule.h"

#include <algorithm>

namespace flash_attn::cpu {
namespace {

constexpr int64_t kWantedTasks = 64;       // split keys until the call has this many tasks ...
constexpr int64_t kLeastSplitKeys = 1024;  // ... but into no less than this
constexpr int64_t kInvariantSplits = 8;    // splits of a request when others must not matter
constexpr int64_t kInvariantSplitKeys = 2048;

// More than any memory, and far from overflow in what is computed from it: a plan that asks for so much can never run.
constexpr int64_t kBeyondMemory = int64_t{1} << 52;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// a * b, cut at kBeyondMemory: extents may be absurd.
int64_t bounded_product(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? kBeyondMemory : std::min(product, kBeyondMemory);
}

bool is_by_rows(const Tiling& tiling, int64_t rows) {
  return tiling.kind == KernelKind::rows || (tiling.kind == KernelKind::mixed && rows <= tiling.max_direct_rows);
}

int64_t chosen_splits(const Problem& problem, bool by_rows, int64_t s_k, int64_t all_panels) {
  if (problem.split_size > 0) return ceil_div(s_k, problem.split_size);
  if (problem.num_splits > 0) return problem.num_splits;
  if (problem.flags & FA_FLAG_BATCH_INVARIANT) return by_rows ? std::min(kInvariantSplits, ceil_div(s_k, kInvariantSplitKeys)) : 1;
  if (all_panels >= kWantedTasks) return 1;
  return std::min(ceil_div(s_k, kLeastSplitKeys), ceil_div(kWantedTasks, std::max<int64_t>(all_panels, 1)));
}

}  // namespace

int64_t longest_rows(const Problem& problem) { return std::min(problem.max_s_q, problem.total_q) * problem.group; }

Tiling choose_tiling(const Problem& problem, const KernelTable& table, KernelKind kind, int threads) {
  Tiling tiling;
  tiling.kind = kind;
  tiling.format = problem.dtype == DType::bf16 ? table.format_bf16 : table.format_f32;
  tiling.max_direct_rows = table.max_direct_rows;
  const int64_t widest = std::max(problem.d, problem.d_v);
  tiling.block_keys = widest <= 128 ? kMostBlockKeys : kLeastBlockKeys;
  const int lanes = tiling.format.lanes;
  // Few large row blocks share the work on K and V; many small ones keep the threads evenly busy.
  const int64_t rows = longest_rows(problem);
  const int64_t all_rows = problem.total_q * problem.h_q;
  // Rows share the work of repacking K and V, so row blocks are as long as their operands fit a core's second cache; tiles, which
  // transpose V, want them long even at some cost to balance.
  constexpr int64_t kOperandBytes = 512 * 1024;
  const int64_t longest = std::min<int64_t>(kMostBlockRows, kOperandBytes / (4 * (problem.d + problem.d_v)));
  const bool is_tiled = tiling.format.buffers > 1;
  const int64_t tasks_per_thread = is_tiled ? 2 : 4;
  const int64_t least = is_tiled ? 2 * lanes : lanes;  // a lone panel would leave the matrix unit waiting for its weights
  const int64_t most = std::max<int64_t>(longest / lanes, 1) * lanes;
  const int64_t even = round_up(ceil_div(std::max<int64_t>(all_rows, 1), tasks_per_thread * threads), lanes);
  tiling.block_rows = static_cast<int>(std::min({most, std::max(even, least), round_up(std::max<int64_t>(rows, 1), lanes)}));
  tiling.threads = threads;
  const PanelScratch panel(tiling.format, problem.d, problem.d_v, tiling.block_rows, tiling.block_keys);
  const int64_t by_rows = table.row_scratch_bytes(problem.d, problem.d_v);
  const bool only_rows = kind == KernelKind::rows || (kind == KernelKind::mixed && rows <= tiling.max_direct_rows);
  tiling.thread_scratch_bytes = round_up(only_rows ? by_rows : std::max(panel.total, by_rows), 64);
  return tiling;
}

int64_t count_panels(const Problem& problem, const Tiling& tiling, int64_t s_q) {
  const int64_t rows = s_q * problem.group;
  return problem.h_k * ceil_div(rows, is_by_rows(tiling, rows) ? tiling.max_direct_rows : tiling.format.lanes);
}

RequestSchedule schedule_request(const Problem& problem, const Tiling& tiling, int64_t s_q, int64_t s_k, int64_t all_panels) {
  RequestSchedule schedule;
  schedule.rows = s_q * problem.group;
  schedule.by_rows = is_by_rows(tiling, schedule.rows);
  const int64_t splits = std::max<int64_t>(chosen_splits(problem, schedule.by_rows, s_k, all_panels), 1);
  const int64_t per_split = problem.split_size > 0 ? problem.split_size : ceil_div(std::max<int64_t>(s_k, 1), splits);
  schedule.split_keys = round_up(per_split, tiling.block_keys);
  schedule.splits = std::max<int64_t>(std::min(splits, ceil_div(s_k, schedule.split_keys)), 1);
  schedule.block_rows = schedule.by_rows ? tiling.max_direct_rows : tiling.block_rows;
  if (!schedule.by_rows && schedule.splits > 1) schedule.block_rows = std::min<int64_t>(schedule.block_rows, tiling.format.lanes);
  schedule.blocks = ceil_div(schedule.rows, schedule.block_rows);
  return schedule;
}

ScheduleBound schedule_bound(const Problem& problem, const Tiling& tiling) {
  const int64_t max_splits = ceil_div(std::max<int64_t>(problem.max_s_k, 1), tiling.block_keys);
  const int64_t all_rows = problem.total_q * problem.h_q;
  // Every row block of a split request counts one group; only the last block of a head may be shorter than a block. Written so that
  // it grows with each extent, as bounds over smaller problems need.
  const int64_t smallest_block = std::min<int64_t>(tiling.format.lanes, tiling.max_direct_rows);
  const int64_t all_groups = std::min(ceil_div(all_rows, smallest_block) + bounded_product(problem.h_k, problem.b), kBeyondMemory);
  ScheduleBound bound;
  int64_t split_rows = 0;  // rows times splits
  if (problem.split_size > 0 || problem.num_splits > 0) {
    const int64_t asked = problem.num_splits > 0 ? problem.num_splits : ceil_div(problem.max_s_k, problem.split_size);
    split_rows = std::min(asked, max_splits) > 1 ? bounded_product(all_rows, std::min(asked, max_splits)) : 0;
    bound.groups = all_groups;
  } else if (problem.flags & FA_FLAG_BATCH_INVARIANT) {
    const int64_t splits = std::min(kInvariantSplits, ceil_div(problem.max_s_k, kInvariantSplitKeys));
    const int64_t rows = std::min(all_rows, bounded_product(problem.b, problem.h_k * tiling.max_direct_rows));
    split_rows = splits > 1 ? bounded_product(tiling.kind == KernelKind::rows ? all_rows : rows, splits) : 0;
    bound.groups = all_groups;
  } else if (problem.max_s_k > kLeastSplitKeys) {
    // Splitting stops at kWantedTasks panels, each of which has at most a panel's rows.
    const int64_t largest = std::max<int64_t>(tiling.format.lanes, tiling.max_direct_rows);
    const int64_t rows = std::min(all_rows, kWantedTasks * largest);
    split_rows = std::min(rows * std::min(kWantedTasks, max_splits), 2 * kWantedTasks * largest);
    bound.groups = std::min(all_groups, kWantedTasks);
  }
  if (split_rows == 0) return ScheduleBound{};
  bound.partial_floats = bounded_product(split_rows, partial_floats(1, problem.d_v));
  return bound;
}

}  // namespace flash_attn::cpu
