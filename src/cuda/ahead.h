// Kernels compiled ahead of time: from problems and architectures to an archive. Plans for known devices; needs a compiler and no
// GPU.
#pragma once

#include "core/backend.h"

#include <vector>

namespace flash_attn::cuda {

// Each kernel once, for every known device of each architecture. Compiles on several threads; the first failure counts.
Status write_kernel_archive(const std::vector<Problem>& problems, const ArchiveOrder& order, ArchiveReport* report);

}  // namespace flash_attn::cuda
