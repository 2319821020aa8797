// How a plan holds a kernel: by its form and config, found in the caches or compiled when it is prepared.
#pragma once

#include "cuda/device.h"
#include "cuda/jit/source.h"
#include "cuda/launch.h"

namespace flash_attn::cuda {

template <class Config>
PlannedKernel planned_kernel(const KernelForm& form, const Config& config, const DeviceInfo& device, int shared_bytes) {
  const auto find = [&form, config, capability = device.compute_capability](LoadPolicy policy, const LoadedKernel** kernel) {
    return get_kernel(form, config, capability, policy, kernel);
  };
  return PlannedKernel(find, config_name(form, config), device, shared_bytes);
}

}  // namespace flash_attn::cuda
