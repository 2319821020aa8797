// How a run is cut into tasks: row blocks, key splits, and where their partial results lie. Pure functions of the problem and the
// requests' lengths; thread counts may change which task runs where, never a task's result.
#pragma once

#include "core/problem.h"
#include "cpu/kernels/params.h"

#include <cstdint>

namespace flash_attn::cpu {

enum class KernelKind : int { mixed, panel, rows, backward };

// Limits of the tilings that choose_tiling gives.
constexpr int kMostBlockRows = 512;
constexpr int kMostBlockKeys = 256;
constexpr int kLeastBlockKeys = 128;

// The tiling of a plan.
struct Tiling {
  KernelKind kind = KernelKind::mixed;
  PanelFormat format;
  int max_direct_rows = 1;
  int block_keys = 0;
  int block_rows = 0;  // of panel tasks
  int threads = 1;
  int64_t thread_scratch_bytes = 0;
};

Tiling choose_tiling(const Problem& problem, const KernelTable& table, KernelKind kind, int threads);

// Stacked rows of the longest request a problem can have. (With no requests, s_q may be any number: then 0.)
int64_t longest_rows(const Problem& problem);

// Units of one request: key heads x row blocks x key splits.
struct RequestSchedule {
  bool by_rows = false;  // the row kernel
  int64_t rows = 0;      // s_q * group
  int64_t block_rows = 1, blocks = 0;
  int64_t splits = 1, split_keys = 0;

  int64_t tasks(int64_t h_k) const { return h_k * blocks * splits; }
  int64_t groups(int64_t h_k) const { return splits > 1 ? h_k * blocks : 0; }
  int64_t partials(int64_t h_k, int64_t d_v) const { return splits > 1 ? h_k * splits * partial_floats(rows, d_v) : 0; }
};

// Panels of a request: what the number of splits depends on.
int64_t count_panels(const Problem& problem, const Tiling& tiling, int64_t s_q);

// `all_panels` counts the whole call's panels, and is ignored when batch invariance is asked for.
RequestSchedule schedule_request(const Problem& problem, const Tiling& tiling, int64_t s_q, int64_t s_k, int64_t all_panels);

// The sizes that the run's arrays never exceed, whatever the lengths.
struct ScheduleBound {
  int64_t groups = 0;
  int64_t partial_floats = 0;
};
ScheduleBound schedule_bound(const Problem& problem, const Tiling& tiling);

}  // namespace flash_attn::cpu
