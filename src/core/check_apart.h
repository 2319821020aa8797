// Part of the check of a run's pointers: what is written, outputs and workspace, shares memory with nothing.
#pragma once

#include "core/problem.h"

namespace flash_attn {

// The pointers are given as described. Reads no tensor; of a CPU run it reads, and checks, the arrays of per-request base pointers.
Status check_apart(const Problem& problem, const fa_attention_args& args, const BorrowedMemory& memory);

}  // namespace flash_attn
