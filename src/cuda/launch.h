// A kernel that a plan has chosen, on its way to the device: compiled and loaded by prepare, launched by run. A launch allocates
// nothing, waits for nothing and reads nothing back. Knows nothing of problems.
#pragma once

#include "core/status.h"
#include "cuda/device.h"
#include "cuda/driver.h"
#include "cuda/jit/kernel_cache.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

namespace flash_attn::cuda {

struct LaunchShape {
  unsigned blocks = 0;
  unsigned threads = 0;
  unsigned shared_bytes = 0;
};

class PlannedKernel {
 public:
  // Finds the kernel, compiling it if the policy allows.
  using Find = std::function<Status(LoadPolicy, const LoadedKernel**)>;

  PlannedKernel(Find find, std::string name, const DeviceInfo& device, int shared_bytes)
      : find_(std::move(find)), name_(std::move(name)), device_(device), shared_bytes_(shared_bytes) {}

  const std::string& name() const { return name_; }

  // Into the given context, or the current one.
  Status prepare(CUcontext context) const;

  // `params` is the kernel's one parameter. Threads may launch one kernel at once.
  Status launch(CUstream stream, uint32_t run_flags, const LaunchShape& shape, const void* params) const;

 private:
  Status load(const Driver& driver, LoadPolicy policy) const;
  Status load_for(const Driver& driver, CUcontext context, CUstream stream, uint32_t run_flags) const;

  Find find_;
  std::string name_;
  DeviceInfo device_;
  int shared_bytes_;
  // The context that the kernel was last made ready in; a run in another one takes the longer way.
  mutable std::atomic<CUcontext> context_{nullptr};
  mutable std::atomic<const LoadedKernel*> kernel_{nullptr};
};

}  // namespace flash_attn::cuda
