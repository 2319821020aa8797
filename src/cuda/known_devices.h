// GPUs by their published figures, for planning where none is there: archives, explanations, tests. A plan on a real device never
// reads this.
#pragma once

#include "cuda/device.h"

#include <string>
#include <vector>

namespace flash_attn::cuda {

// Of an architecture by the compiler's name ("sm_90a"): the largest first, then others whose plans may differ. Empty if unknown.
std::vector<DeviceInfo> known_devices(const std::string& arch);

// "sm_80, sm_86, ...".
std::string known_architectures();

}  // namespace flash_attn::cuda
