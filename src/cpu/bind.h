// Binds a run's pointers to a problem's strides, as kernels read them. Block sizes are the caller's to fill in.
#pragma once

#include "core/problem.h"
#include "cpu/kernels/params.h"

namespace flash_attn::cpu {

ForwardParams bind_forward(const Problem& problem, const fa_attention_args& args);
BackwardParams bind_backward(const Problem& problem, const fa_attention_args& args);

}  // namespace flash_attn::cpu
