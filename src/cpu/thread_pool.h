// Threads of the CPU room: the library's own pool, or the caller's parallel_for. Process-wide; created on first use.
#pragma once

#include "core/status.h"
#include "flash_attn/flash_attn.h"

namespace flash_attn::cpu {

// Threads a run may use when it does not say: what the caller set, else the processors this process may use.
int default_num_threads();
Status set_num_threads(int num_threads);
Status set_parallel_for(fa_parallel_for_fn parallel_for, void* user, int concurrency);

// Call task(context, i) once for each i in [0, count), count <= workers, and return when all have returned. Index 0 runs on the calling
// thread when the library's own pool is used. May be called from several threads at once.
void parallel_for(int count, fa_task_fn task, void* context);

// Start the pool's threads ahead of the first run.
void start_pool(int num_threads);

}  // namespace flash_attn::cpu
