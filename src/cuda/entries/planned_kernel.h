// How a plan holds a kernel: by its form and config, found in the caches or compiled when it is prepared. And the name that the
// plan is known by. Neither allocates: programs may plan anew for each call.
#pragma once

#include "cuda/device.h"
#include "cuda/jit/source.h"
#include "cuda/launch.h"

#include <string>
#include <string_view>

namespace flash_attn::cuda {

template <class Config>
class PlannedKernelOf final : public PlannedKernel {
 public:
  PlannedKernelOf(const KernelForm& form, const Config& config, const DeviceInfo& device, int shared_bytes)
      : PlannedKernel(device, shared_bytes), form_(form), config_(config) {}

  std::string name() const override { return config_name(form_, config_); }

 private:
  const LoadedKernel* find() const override { return find_kernel(form_, config_, compute_capability()); }
  Status load(const LoadedKernel** kernel) const override {
    return get_kernel(form_, config_, compute_capability(), LoadPolicy::allowed, kernel);
  }

  const KernelForm& form_;
  Config config_;
};

// "cuda/sm90_fwd/sm_90a"
class PlanName {
 public:
  PlanName(std::string_view kernel, const DeviceInfo& device) {
    const std::string arch = arch_name(device.compute_capability);
    size_t length = 0;
    for (const std::string_view part : {std::string_view("cuda/"), kernel, std::string_view("/"), std::string_view(arch)})
      for (size_t n = 0; n < part.size() && length + 1 < sizeof text_; ++n) text_[length++] = part[n];
  }
  const char* text() const { return text_; }

 private:
  char text_[32] = {};
};

}  // namespace flash_attn::cuda
