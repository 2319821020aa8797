// Runs a CPU plan backward: binds pointers, cuts the requests into ranges of rows, lets the threads take them, and merges what
// several ranges add to.
#pragma once

#include "core/problem.h"
#include "core/status.h"
#include "cpu/gradient_schedule.h"
#include "cpu/kernels/params.h"

#include <cstddef>

namespace flash_attn::cpu {

// Scratch bytes of a run with these choices.
size_t gradient_scratch_bytes(const Problem& problem, const GradientTiling& tiling);

// Scratch bytes that suffice for every problem whose extents do not exceed this one's.
size_t gradient_scratch_bound(const Problem& maxima, const KernelTable& table, int threads);

Status launch_backward(const Problem& problem, const KernelTable& table, const GradientTiling& tiling,
                       const fa_attention_args& args, char* scratch);

}  // namespace flash_attn::cpu
