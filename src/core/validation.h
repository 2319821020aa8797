// The parts of make_problem. Each checks one aspect of a description and writes what it learned into the Problem; problem.cpp calls
// them in this order, and a later part relies on the earlier ones.
#pragma once

#include "core/problem.h"

namespace flash_attn {

// Enums, flags, bits and numbers that need no tensor.
Status read_options(const fa_attention_desc& desc, Problem* problem);

// Form of every described tensor; which are described, and whether the direction allows them.
Status read_tensors(const fa_attention_desc& desc, Problem* problem);

// q, k, v, o, lse and the block table: dims, layout, lengths and strides.
Status read_query(const fa_attention_desc& desc, Problem* problem);
Status read_keys(const fa_attention_desc& desc, Problem* problem);
Status read_outputs(const fa_attention_desc& desc, Problem* problem);

// What changes scores: ALiBi, bias, boolean and tree masks, sink, dropout, score_mod.
Status read_features(const fa_attention_desc& desc, Problem* problem);

// Appended rows, rotary embedding and f8 scales.
Status read_cache_update(const fa_attention_desc& desc, Problem* problem);

// The tensors of a backward pass.
Status read_gradients(const fa_attention_desc& desc, Problem* problem);

}  // namespace flash_attn
