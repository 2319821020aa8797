// The Hopper forward kernel's schedules by class of problem, as `flash-attn bench --tune` has measured them, and which schedules
// make a kernel at all.
#pragma once

#include "core/status.h"
#include "cuda/entries/tuning.h"
#include "cuda/kernels/sm90_configs.h"

#include <string>
#include <vector>

namespace flash_attn::cuda {

struct Sm90Schedule {
  int groups, tile_k, stages;
  bool rotates_rows, takes_turns;
  int q_buffers;
  bool shares_q_buffer;
  int o_passes;
  bool overlaps_tiles;
  int polynomial_exp;
  bool integer_tops;
  int consumer_registers, producer_registers;
};

struct Sm90TunedRow {
  ProblemClass problem_class;
  Sm90Schedule schedule;
};

// The table; each class at most once.
std::vector<Sm90TunedRow> tuned_rows_sm90();

// The kernel's name with a schedule forced: "sm90_fwd:groups=2,tile_k=80,...".
std::string forced_kernel_sm90(const Sm90Schedule& schedule);

// Sets the schedule of a row of the table; leaves the configuration as it is where no row has the class.
void apply_tuned_sm90(const ProblemClass& problem_class, Sm90ForwardConfig* config);

// Sets what the caller forces behind the kernel's name.
Status apply_forced_sm90(const Problem& problem, Sm90ForwardConfig* config);

// ok if the kernel can be built and run with this schedule on a device with so much shared memory, else what is wrong with it.
Status check_schedule_sm90(const Sm90ForwardConfig& config, int shared_bytes);

}  // namespace flash_attn::cuda
