// From a Problem and a run's pointers to the parameters that the forward kernels share. The part that a plan fixes is filled once;
// a run adds its pointers.
#pragma once

#include "core/problem.h"
#include "cuda/kernels/params.h"

namespace flash_attn::cuda {

// Everything but pointers and the cutting into items. Extents must fit 32 bits (see check_forward_features). `packs`: the query
// heads of a key head are stacked; not with dropout, whose pattern covers rows of one head.
ForwardParams shape_params(const Problem& problem, bool packs);

void bind_pointers(const Problem& problem, const fa_attention_args& args, ForwardParams* params);

// Is any length, offset, index or pointer of a request read on the device?
bool reads_lengths(const Problem& problem);

}  // namespace flash_attn::cuda
