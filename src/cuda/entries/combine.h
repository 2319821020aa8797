// The kernel that merges key splits (kernels/combine.cuh), and how a plan holds a kernel by its config: shared by the forward
// entries.
#pragma once

#include "cuda/device.h"
#include "cuda/jit/source.h"
#include "cuda/launch.h"

namespace flash_attn::cuda {

extern const KernelForm kCombineForm;

template <class Config>
PlannedKernel planned_kernel(const KernelForm& form, const Config& config, const DeviceInfo& device, int shared_bytes) {
  const int capability = device.compute_capability;
  const auto find = [&form, config, capability](LoadPolicy policy, const LoadedKernel** kernel) {
    return get_kernel(form, config, capability, policy, kernel);
  };
  return PlannedKernel(find, config_name(form, config), device, shared_bytes);
}

}  // namespace flash_attn::cuda
