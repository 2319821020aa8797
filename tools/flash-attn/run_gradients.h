// The backward of `run`.
#pragma once

#include "run.h"
#include "run_job.h"

namespace flash_attn::tool {

// Adds to a complete forward job, whose lse is described, what --dout and the options beside it ask for.
void add_backward(const RunOptions& options, Job* job);

}  // namespace flash_attn::tool
