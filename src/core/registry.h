// What the ABI offers of a room beyond the seam of backend.h: process-wide settings of the CPU room. Implemented by registry.cpp,
// the only file of core that names a room.
#pragma once

#include "core/status.h"
#include "flash_attn/flash_attn.h"

namespace flash_attn {

// Instruction sets of this CPU, best first; null past the last.
const char* cpu_isa_name(int index);

Status set_cpu_threads(int num_threads);
int cpu_threads();
Status set_cpu_parallel_for(fa_parallel_for_fn parallel_for, void* user, int concurrency);

}  // namespace flash_attn
