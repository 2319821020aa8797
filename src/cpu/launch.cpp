// A run on the CPU. Threads take tasks from one counter, the longest of a head first; the thread that finishes the last split of a
// row block merges it. No allocation: everything lies in the caller's scratch memory.

#include "cpu/launch.h"

#include "cpu/bind.h"
#include "cpu/requests.h"
#include "cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <new>

namespace flash_attn::cpu {
namespace {

// Where a request's tasks, merge counters and partial results begin.
struct Placement {
  int64_t task = 0, group = 0, partial = 0;
};

struct ScratchMap {
  size_t threads, placements, counters, partials, total;

  ScratchMap(const Problem& p, const Tiling& tiling) {
    const ScheduleBound bound = schedule_bound(p, tiling);
    size_t end = 0;
    const auto book = [&end](int64_t bytes) {
      const size_t at = end;
      end += static_cast<size_t>(round_up(bytes, 64));
      return at;
    };
    threads = book(tiling.thread_scratch_bytes * tiling.threads);
    placements = book((p.b + 1) * static_cast<int64_t>(sizeof(Placement)));
    counters = book(bound.groups * static_cast<int64_t>(sizeof(std::atomic<int32_t>)));
    partials = book(bound.partial_floats * 4);
    total = end;
  }
};

// One run; lives on the caller's stack while the threads work.
struct Run {
  const Problem& problem;
  const KernelTable& table;
  const Tiling& tiling;
  const fa_attention_args& args;
  ForwardParams params;
  char* scratch;
  Placement* placements;
  std::atomic<int32_t>* counters;
  float* partials;
  int64_t all_panels;
  std::atomic<int64_t> next_task{0};
  std::atomic<int32_t> next_slot{0};
};

// Lay out tasks, counters and partial results. Returns the run's work in multiply-adds, about.
double place_requests(Run& run) {
  const Problem& p = run.problem;
  Placement at;
  double work = 0;
  for (int64_t r = 0; r < p.b; ++r) {
    const Request request = resolve_request(p, run.args, r);
    const RequestSchedule schedule = schedule_request(p, run.tiling, request.s_q, request.s_k, run.all_panels);
    run.placements[r] = at;
    at.task += schedule.tasks(p.h_k);
    for (int64_t g = 0; g < schedule.groups(p.h_k); ++g) new (&run.counters[at.group + g]) std::atomic<int32_t>(0);
    at.group += schedule.groups(p.h_k);
    at.partial += schedule.partials(p.h_k, p.d_v);
    work += static_cast<double>(request.s_q * p.h_q) * static_cast<double>(request.s_k * (p.d + p.d_v));
  }
  run.placements[p.b] = at;
  return work;
}

// The request that task `t` belongs to: the last whose first task is not after t.
int64_t request_of(const Run& run, int64_t t) {
  const Placement* const begin = run.placements;
  const Placement* const found =
      std::upper_bound(begin, begin + run.problem.b + 1, t, [](int64_t task, const Placement& at) { return task < at.task; });
  return found - begin - 1;
}

void run_task(Run& run, int64_t t, char* scratch) {
  const Problem& p = run.problem;
  const int64_t r = request_of(run, t);
  const Placement& at = run.placements[r];
  const Request request = resolve_request(p, run.args, r);
  const RequestSchedule schedule = schedule_request(p, run.tiling, request.s_q, request.s_k, run.all_panels);
  const int64_t local = t - at.task, unit = local / schedule.splits, split = local % schedule.splits;
  // The last row blocks see most keys under a causal mask: they go first, those of all heads before the next.
  const int64_t head_k = unit % p.h_k;
  const int64_t block = schedule.blocks - 1 - unit / p.h_k;

  ForwardTask task;
  task.head_k = head_k;
  task.row_begin = block * schedule.block_rows;
  task.row_end = std::min(task.row_begin + schedule.block_rows, schedule.rows);
  task.key_begin = split * schedule.split_keys;
  task.key_end = split + 1 == schedule.splits ? request.s_k : task.key_begin + schedule.split_keys;
  // A head's partials lie row block by row block, split by split.
  const int64_t stride = partial_floats(task.row_end - task.row_begin, p.d_v);
  float* const partials = run.partials + at.partial + head_k * schedule.splits * partial_floats(schedule.rows, p.d_v) +
                          schedule.splits * partial_floats(task.row_begin, p.d_v);
  if (schedule.splits > 1) task.partial = partials + split * stride;
  (schedule.by_rows ? run.table.forward_rows : run.table.forward_panel)(run.params, request, task, scratch);
  if (schedule.splits == 1) return;
  if (run.counters[at.group + unit].fetch_add(1, std::memory_order_acq_rel) + 1 < schedule.splits) return;
  const MergeTask merge{head_k, task.row_begin, task.row_end, partials, stride, static_cast<int>(schedule.splits)};
  run.table.merge(run.params, request, merge);
}

void work(void* context, int64_t) {
  Run& run = *static_cast<Run*>(context);
  // Slots, not thread indices: a caller's parallel_for may run several indices on one thread, one after the other.
  const int32_t slot = run.next_slot.fetch_add(1, std::memory_order_relaxed);
  if (slot >= run.tiling.threads) return;  // called more often than asked for: there is scratch memory for no more
  char* const scratch = run.scratch + slot * run.tiling.thread_scratch_bytes;
  const int64_t tasks = run.placements[run.problem.b].task;
  for (int64_t t = run.next_task.fetch_add(1, std::memory_order_relaxed); t < tasks;
       t = run.next_task.fetch_add(1, std::memory_order_relaxed))
    run_task(run, t, scratch);
}

}  // namespace

size_t scratch_bytes(const Problem& problem, const Tiling& tiling) { return ScratchMap(problem, tiling).total; }

size_t scratch_bound(const Problem& maxima, const KernelTable& table, KernelKind kind, int threads) {
  Tiling tiling = choose_tiling(maxima, table, kind, threads);
  const int lanes = tiling.format.lanes;
  // Smaller dims use longer key blocks and smaller calls use fewer rows: take the largest of each.
  const PanelScratch panel(tiling.format, maxima.d, maxima.d_v, kMostBlockRows / lanes * lanes, kMostBlockKeys);
  tiling.thread_scratch_bytes = round_up(std::max(panel.total, table.row_scratch_bytes(maxima.d, maxima.d_v)), 64);
  tiling.block_keys = kLeastBlockKeys;
  return ScratchMap(maxima, tiling).total;
}

Status launch_forward(const Problem& problem, const KernelTable& table, const Tiling& tiling, const fa_attention_args& args,
                      char* scratch) {
  FA_TRY(check_requests(problem, args));
  const ScratchMap map(problem, tiling);
  Run run{problem,
          table,
          tiling,
          args,
          bind_forward(problem, args),
          scratch + map.threads,
          reinterpret_cast<Placement*>(scratch + map.placements),
          reinterpret_cast<std::atomic<int32_t>*>(scratch + map.counters),
          reinterpret_cast<float*>(scratch + map.partials),
          0};
  run.params.block_rows = tiling.block_rows;
  run.params.block_keys = tiling.block_keys;
  for (int64_t r = 0; r < problem.b; ++r) run.all_panels += count_panels(problem, tiling, resolve_request(problem, args, r).s_q);
  const double multiply_adds = place_requests(run);
  const int64_t tasks = run.placements[problem.b].task;
  // Below this the threads cost more than they bring.
  constexpr double kSerialWork = 1e6;
  const int64_t wanted = multiply_adds < kSerialWork ? 1 : std::min<int64_t>(tiling.threads, tasks);
  parallel_for(static_cast<int>(std::min<int64_t>(wanted, tasks)), work, &run);
  return {};
}

}  // namespace flash_attn::cpu
