// A kernel that a plan has chosen, on its way to the device: compiled and loaded by prepare, launched by run. A launch allocates
// nothing, waits for nothing and reads nothing back. Knows nothing of problems.
#pragma once

#include "core/status.h"
#include "cuda/device.h"
#include "cuda/driver.h"
#include "cuda/jit/kernel_cache.h"

#include <atomic>
#include <cstdint>
#include <string>

namespace flash_attn::cuda {

struct LaunchShape {
  unsigned blocks = 0;
  unsigned threads = 0;
  unsigned shared_bytes = 0;
};

class PlannedKernel {
 public:
  PlannedKernel(const PlannedKernel&) = delete;
  PlannedKernel& operator=(const PlannedKernel&) = delete;

  // For a person: the form and its configuration.
  virtual std::string name() const = 0;

  // Into the given context, or the current one.
  Status prepare(CUcontext context) const;

  // `params` is the kernel's one parameter. Threads may launch one kernel at once.
  Status launch(CUstream stream, uint32_t run_flags, const LaunchShape& shape, const void* params) const;

 protected:
  PlannedKernel(const DeviceInfo& device, int shared_bytes)
      : device_index_(device.index), compute_capability_(device.compute_capability), shared_bytes_(shared_bytes) {}
  ~PlannedKernel() = default;

  int compute_capability() const { return compute_capability_; }

 private:
  // The kernel if it is in memory, else null; loads it, compiling if it must.
  virtual const LoadedKernel* find() const = 0;
  virtual Status load(const LoadedKernel** kernel) const = 0;

  Status load_into_current(const Driver& driver) const;
  Status make_ready(const Driver& driver, CUcontext context, CUstream stream, uint32_t run_flags) const;
  void keep(const LoadedKernel* kernel, CUcontext context) const;

  int device_index_, compute_capability_, shared_bytes_;
  // The context that the kernel was last made ready in; a run in another one takes the longer way.
  mutable std::atomic<CUcontext> context_{nullptr};
  mutable std::atomic<const LoadedKernel*> kernel_{nullptr};
};

}  // namespace flash_attn::cuda
