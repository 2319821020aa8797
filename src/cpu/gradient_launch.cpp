// A backward run on the CPU, in phases between which the threads meet: bias gradients are zeroed; ranges of rows give dQ and their
// sums of dK and dV; sums of several ranges are merged in order. No allocation, and no number depends on which thread made it.

#include "cpu/gradient_launch.h"

#include "cpu/bind.h"
#include "cpu/gradient_run.h"
#include "cpu/requests.h"
#include "cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace flash_attn::cpu {
namespace {

constexpr int64_t kSumKeys = 128;   // keys of one task that merges ranges
constexpr int64_t kTileBlocks = 4;  // key blocks of one task of a shared bias gradient

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct ScratchMap {
  size_t threads, places, hulls, sinks, slopes, by_key, by_row, sums, total;

  ScratchMap(const Problem& p, const GradientTiling& tiling, bool for_smaller) {
    const GradientBound bound = gradient_bound(p, tiling, for_smaller);
    const BiasGradient bias = bias_gradient_of(p);
    size_t end = 0;
    const auto book = [&end](int64_t count, int64_t bytes) {
      const size_t at = end;
      end += static_cast<size_t>(round_up(bounded_product(count, bytes), 64));
      return at;
    };
    threads = book(tiling.threads, tiling.thread_scratch_bytes);
    places = book(p.b + 1, sizeof(GradientPlace));
    hulls = book(bound.ranges, 16);
    sinks = book(p.has_dsink ? bounded_product(bound.ranges, p.group) : 0, 8);
    slopes = book(p.has_dslopes ? bounded_product(bound.ranges, p.group) : 0, 8);
    by_key = book(bias == BiasGradient::by_key ? bounded_product(bound.range_keys, p.group) : 0, 4);
    by_row = book(bias == BiasGradient::by_row ? bounded_product(p.total_q, p.h_q) : 0, 4);
    sums = book(bound.sum_floats, 4);
    total = end;
  }
};

// The threads' way through the tasks of one phase.
struct Phase {
  GradientRun& run;
  void (*task)(GradientRun& run, int64_t index, char* scratch);
  int64_t tasks;
  std::atomic<int64_t> next{0};
  std::atomic<int32_t> slots{0};
};

void work(void* context, int64_t) {
  Phase& phase = *static_cast<Phase*>(context);
  const int32_t slot = phase.slots.fetch_add(1, std::memory_order_relaxed);
  if (slot >= phase.run.tiling.threads) return;  // called more often than asked for: there is scratch memory for no more
  char* const scratch = phase.run.threads + slot * phase.run.tiling.thread_scratch_bytes;
  for (int64_t t = phase.next.fetch_add(1, std::memory_order_relaxed); t < phase.tasks;
       t = phase.next.fetch_add(1, std::memory_order_relaxed))
    phase.task(phase.run, t, scratch);
}

void run_phase(GradientRun& run, int64_t tasks, bool is_serial, void (*task)(GradientRun&, int64_t, char*)) {
  Phase phase{run, task, tasks};
  parallel_for(static_cast<int>(is_serial ? std::min<int64_t>(tasks, 1) : std::min<int64_t>(tasks, run.tiling.threads)), work,
               &phase);
}

// The request that owns index `t` of what `first` counts: the last whose first index is not after t.
int64_t request_of(const GradientRun& run, int64_t t, int64_t GradientPlace::*first) {
  const GradientPlace* const begin = run.places;
  const GradientPlace* const end = begin + run.problem.b + 1;
  return std::upper_bound(begin, end, t, [first](int64_t index, const GradientPlace& at) { return index < at.*first; }) - begin - 1;
}

void zero_bias_line(GradientRun& run, int64_t line, char*) {
  const Problem& p = run.problem;
  const int64_t row = line % p.dbias_rows, head = line / p.dbias_rows % p.dbias_heads, batch = line / p.dbias_rows / p.dbias_heads;
  float* const at = run.params.dbias + batch * p.dbias.batch + head * p.dbias.head + row * p.dbias.row;
  std::memset(at, 0, static_cast<size_t>(p.dbias_columns) * 4);
}

void run_range(GradientRun& run, const GradientPlace& at, int64_t r, int64_t local, char* scratch) {
  const Problem& p = run.problem;
  const Request request = resolve_request(p, run.args, r);
  const GradientSchedule& schedule = at.schedule;
  // The last rows see most keys under a causal mask: they go first, those of all heads before the next.
  const int64_t head_k = local % p.h_k, range = schedule.ranges - 1 - local / p.h_k;
  const int64_t index = at.range + head_k * schedule.ranges + range;

  BackwardTask task;
  task.head_k = task.head = head_k;
  task.row_begin = schedule.row_begin(range);
  task.row_end = schedule.row_end(range);
  task.key_end = request.s_k;
  task.hull = run.hulls + 2 * index;
  float* const own = schedule.ranges > 1
                         ? run.sums + at.sum + (head_k * schedule.ranges + range) * run.tiling.sum_floats(request.s_k)
                         : reinterpret_cast<float*>(scratch + run.tiling.kernel_scratch_bytes);
  task.dk = own;
  task.dv = own + run.tiling.dv_offset(request.s_k);
  const auto cleared = [](auto* base, int64_t offset, int64_t count) {
    if (!base) return base;
    std::fill_n(base + offset, count, 0);
    return base + offset;
  };
  task.sinks = cleared(run.sinks, index * p.group, p.group);
  task.slopes = cleared(run.slopes, index * p.group, p.group);
  task.by_key = cleared(run.by_key, at.by_key + (head_k * schedule.ranges + range) * p.group * request.s_k, p.group * request.s_k);
  task.by_row = cleared(run.by_row, at.by_row + head_k * schedule.rows + task.row_begin, task.row_end - task.row_begin);
  task.adds_to_dbias = run.bias == BiasGradient::owned;
  run.table.backward(run.params, request, task, scratch);
  if (schedule.ranges == 1) run.table.sum_keys(run.params, request, {head_k, 0, request.s_k, task.dk, task.dv, 0, task.hull, 1});
}

// One tile of a bias gradient that several heads or requests share: all of them, one after the other.
void run_bias_tile(GradientRun& run, int64_t tile, char* scratch) {
  const Problem& p = run.problem;
  const BiasTiles& tiles = run.tiles;
  const int64_t column = tile % tiles.columns, row = tile / tiles.columns % tiles.rows;
  const int64_t head_index = tile / tiles.columns / tiles.rows % tiles.heads;
  const int64_t batch_index = tile / tiles.columns / tiles.rows / tiles.heads;
  const int64_t first_r = tiles.batches == 1 ? 0 : batch_index, last_r = tiles.batches == 1 ? p.b - 1 : batch_index;
  const int64_t first_head = tiles.heads == 1 ? 0 : head_index, last_head = tiles.heads == 1 ? p.h_q - 1 : head_index;
  BackwardParams params = run.params;
  params.group = 1;
  for (int64_t r = first_r; r <= last_r; ++r) {
    const Request request = resolve_request(p, run.args, r);
    BackwardTask task;
    task.row_begin = row * run.tiling.block_rows;
    task.row_end = std::min<int64_t>(task.row_begin + run.tiling.block_rows, request.s_q);
    task.key_begin = column * kTileBlocks * run.tiling.block_keys;
    task.key_end = std::min<int64_t>(task.key_begin + kTileBlocks * run.tiling.block_keys, request.s_k);
    task.adds_to_dbias = true;
    if (task.row_begin >= task.row_end || task.key_begin >= task.key_end) continue;
    for (int64_t head = first_head; head <= last_head; ++head) {
      task.head = head;
      task.head_k = head / p.group;
      run.table.backward(params, request, task, scratch);
    }
  }
}

void run_task(GradientRun& run, int64_t t, char* scratch) {
  const int64_t ranges = run.places[run.problem.b].task;
  if (t >= ranges) return run_bias_tile(run, t - ranges, scratch);
  const int64_t r = request_of(run, t, &GradientPlace::task);
  run_range(run, run.places[r], r, t - run.places[r].task, scratch);
}

void merge_task(GradientRun& run, int64_t t, char*) {
  const Problem& p = run.problem;
  const int64_t merges = run.places[p.b].merge;
  if (t == merges) return collect_sums(run);
  if (t > merges) return clear_dead_rows(run, t - merges - 1);
  const int64_t r = request_of(run, t, &GradientPlace::merge);
  const GradientPlace& at = run.places[r];
  const Request request = resolve_request(p, run.args, r);
  const int64_t local = t - at.merge, head_k = local % p.h_k, ranges = at.schedule.ranges;
  KeySumTask task;
  task.head_k = head_k;
  task.key_begin = local / p.h_k * kSumKeys;
  task.key_end = std::min<int64_t>(task.key_begin + kSumKeys, request.s_k);
  task.stride = run.tiling.sum_floats(request.s_k);
  task.dk = run.sums + at.sum + head_k * ranges * task.stride;
  task.dv = task.dk + run.tiling.dv_offset(request.s_k);
  task.hulls = run.hulls + 2 * (at.range + head_k * ranges);
  task.ranges = static_cast<int>(ranges);
  run.table.sum_keys(run.params, request, task);
}

// Lay out tasks and sums. Returns the run's work in multiply-adds, about.
double place_requests(GradientRun& run) {
  const Problem& p = run.problem;
  GradientWork all_work;
  double multiply_adds = 0;
  for (int64_t r = 0; r < p.b; ++r) {
    const Request request = resolve_request(p, run.args, r);
    all_work += gradient_work(p, run.tiling, request.s_q, request.s_k);
    multiply_adds += static_cast<double>(request.s_q * p.h_q) * static_cast<double>(request.s_k * (3 * p.d + 2 * p.d_v));
  }
  GradientPlace at;
  for (int64_t r = 0; r < p.b; ++r) {
    const Request request = resolve_request(p, run.args, r);
    at.schedule = schedule_gradients(p, run.tiling, request.s_q, request.s_k, all_work);
    run.places[r] = at;
    const int64_t ranges = at.schedule.tasks(p.h_k);
    at.task += ranges;
    at.range += ranges;
    at.by_key += ranges * p.group * request.s_k;
    at.by_row += at.schedule.rows * p.h_k;
    if (at.schedule.ranges == 1) continue;
    at.merge += p.h_k * ceil_div(request.s_k, kSumKeys);
    at.sum += ranges * run.tiling.sum_floats(request.s_k);
  }
  run.places[p.b] = at;
  return multiply_adds;
}

BiasTiles bias_tiles(const Problem& p, const GradientTiling& tiling) {
  if (bias_gradient_of(p) != BiasGradient::shared) return {};
  return {p.packed_q ? p.b : p.dbias_batches, p.dbias_heads, ceil_div(p.max_s_q, tiling.block_rows),
          ceil_div(p.max_s_k, kTileBlocks * tiling.block_keys)};
}

}  // namespace

BiasGradient bias_gradient_of(const Problem& p) {
  if (!p.has_dbias) return BiasGradient::none;
  if (p.dbias.key == 0) return BiasGradient::by_row;
  if (p.dbias_rows == 1) return BiasGradient::by_key;
  const bool is_owned = p.dbias_heads == p.h_q && (p.packed_q || p.dbias_batches == p.b);
  return is_owned ? BiasGradient::owned : BiasGradient::shared;
}

size_t gradient_scratch_bytes(const Problem& problem, const GradientTiling& tiling) {
  return ScratchMap(problem, tiling, false).total;
}

size_t gradient_scratch_bound(const Problem& maxima, const KernelTable& table, int threads) {
  return ScratchMap(maxima, largest_gradient_tiling(maxima, table, threads), true).total;
}

Status launch_backward(const Problem& problem, const KernelTable& table, const GradientTiling& tiling,
                       const fa_attention_args& args, char* scratch) {
  FA_TRY(check_requests(problem, args));
  const ScratchMap map(problem, tiling, false);
  const auto doubles = [scratch](bool wanted, size_t at) { return wanted ? reinterpret_cast<double*>(scratch + at) : nullptr; };
  const auto floats = [scratch](bool wanted, size_t at) { return wanted ? reinterpret_cast<float*>(scratch + at) : nullptr; };
  const BiasGradient bias = bias_gradient_of(problem);
  GradientRun run{problem,
                  table,
                  tiling,
                  args,
                  bind_backward(problem, args),
                  bias,
                  bias_tiles(problem, tiling),
                  scratch + map.threads,
                  reinterpret_cast<GradientPlace*>(scratch + map.places),
                  reinterpret_cast<int64_t*>(scratch + map.hulls),
                  doubles(problem.has_dsink, map.sinks),
                  doubles(problem.has_dslopes, map.slopes),
                  floats(bias == BiasGradient::by_key, map.by_key),
                  floats(bias == BiasGradient::by_row, map.by_row),
                  floats(true, map.sums)};
  run.params.block_rows = tiling.block_rows;
  run.params.block_keys = tiling.block_keys;
  run.params.padded_d = tiling.padded_d;
  run.params.padded_d_v = tiling.padded_d_v;
  // Below this the threads cost more than they bring.
  constexpr double kSerialWork = 1e6;
  const bool is_serial = place_requests(run) < kSerialWork;
  if (problem.has_dbias)
    run_phase(run, problem.dbias_batches * problem.dbias_heads * problem.dbias_rows, is_serial, zero_bias_line);
  run_phase(run, run.places[problem.b].task + run.tiles.count(), is_serial, run_task);
  run_phase(run, run.places[problem.b].merge + 1 + dead_row_tasks(problem), is_serial, merge_task);
  return {};
}

}  // namespace flash_attn::cpu
