// Runs a CPU plan: binds pointers, cuts the requests into tasks and lets the threads take them.
#pragma once

#include "core/problem.h"
#include "core/status.h"
#include "cpu/kernels/params.h"
#include "cpu/schedule.h"

#include <cstddef>

namespace flash_attn::cpu {

// Scratch bytes of a run with these choices.
size_t scratch_bytes(const Problem& problem, const Tiling& tiling);

// Scratch bytes that suffice for every problem whose extents do not exceed this one's.
size_t scratch_bound(const Problem& maxima, const KernelTable& table, KernelKind kind, int threads);

Status launch_forward(const Problem& problem, const KernelTable& table, const Tiling& tiling, const fa_attention_args& args,
                      char* scratch);

}  // namespace flash_attn::cpu
