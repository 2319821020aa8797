// The backward of `run`: its part of the description and of the arrays. What the options may be is judged before, in
// run_options.cpp.
#pragma once

#include "run.h"
#include "run_job.h"

namespace flash_attn::tool {

// Adds to a complete forward job, whose lse is described, what --dout and the options beside it ask for.
void add_backward(const RunOptions& options, Job* job);

}  // namespace flash_attn::tool
