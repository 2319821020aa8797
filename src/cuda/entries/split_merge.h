// The kernel that merges the partial results of key splits (kernels/combine.cuh), as the plans of the forward kernels hold it.
#pragma once

#include "core/problem.h"
#include "core/status.h"
#include "cuda/device.h"
#include "cuda/driver_types.h"
#include "cuda/entries/planned_kernel.h"
#include "cuda/jit/kernel_request.h"
#include "cuda/kernels/configs.h"
#include "cuda/kernels/params.h"

#include <cstdint>

namespace flash_attn::cuda {

class SplitMerge {
 public:
  SplitMerge(const Problem& problem, const DeviceInfo& device, const CombineConfig& config);

  Status prepare(CUcontext context) const { return kernel_.prepare(context); }
  // After the kernel that wrote the partial results, with its parameters.
  Status launch(CUstream stream, uint32_t run_flags, const ForwardParams& params) const;

 private:
  CombineConfig config_;
  int sm_limit_;
  PlannedKernelOf<CombineConfig> kernel_;
};

KernelRequest merge_request(const CombineConfig& config, const DeviceInfo& device);

}  // namespace flash_attn::cuda
