// The choice among the room's kernels, for what plans without a caller: archives, tests.
#pragma once

#include "cuda/entries/entry.h"

#include <vector>

namespace flash_attn::cuda {

// The kernel that serves a problem on a device; what the others said goes to `refusals` (nullable). Fails with the reason of the
// first if none does.
Status choose_entry(const Problem& problem, const DeviceInfo& device, const KernelEntry** chosen, std::vector<Refusal>* refusals);

// The texts that the plan of a problem on a device would compile.
Status list_kernels(const Problem& problem, const DeviceInfo& device, std::vector<KernelRequest>* requests);

}  // namespace flash_attn::cuda
