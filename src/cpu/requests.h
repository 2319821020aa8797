// Reads a run's lengths, tables and indices from the caller's arrays: checked once, resolved as often as needed.
#pragma once

#include "core/problem.h"
#include "core/status.h"
#include "math/seqlen.h"

namespace flash_attn::cpu {

// Request `index` with its lengths. The arrays must have passed check_requests.
Request resolve_request(const Problem& problem, const fa_attention_args& args, int64_t index);

// Every length, table entry and index against the declared extents; the message names array, entry, value and bound.
Status check_requests(const Problem& problem, const fa_attention_args& args);

}  // namespace flash_attn::cpu
