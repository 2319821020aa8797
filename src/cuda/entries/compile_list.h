// The fixed list of kernels that the project's tests compile without a GPU: each shipped configuration, each feature once per
// architecture, and a pairwise cover of the features. Figures of a list, not a rule of dispatch.
#pragma once

#include "cuda/jit/kernel_request.h"

#include <vector>

namespace flash_attn::cuda {

std::vector<KernelRequest> compile_list();

}  // namespace flash_attn::cuda
