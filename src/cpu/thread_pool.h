// Threads of the CPU room: the library's own pool, or the caller's parallel_for. Process-wide; created on first use.
#pragma once

#include "core/status.h"
#include "flash_attn/flash_attn.h"

namespace flash_attn::cpu {

// Threads a run may use when it does not say: what the caller set, else the processors this process may use.
int default_num_threads();
Status set_num_threads(int num_threads);
Status set_parallel_for(fa_parallel_for_fn parallel_for, void* user, int concurrency);

// Call task(context, i) on up to `count` threads at once, each with an i of its own below count, the calling thread among them;
// return when all calls have. The work must not depend on how many come: threads that the system does not schedule in time are not
// waited for. May be called from several threads at once.
void parallel_for(int count, fa_task_fn task, void* context);

// Start the pool's threads ahead of the first run, also while others run.
void start_pool(int num_threads);

}  // namespace flash_attn::cpu
