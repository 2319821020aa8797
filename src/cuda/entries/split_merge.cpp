// See split_merge.h.
#include "cuda/entries/split_merge.h"

#include "cuda/entries/forward_choices.h"

namespace flash_attn::cuda {
namespace {

const KernelForm kCombineForm = {"sm80_combine",
                                 "cuda/kernels/combine.cuh",
                                 "CombineConfig",
                                 "__launch_bounds__(kConfig.threads())",
                                 "const __grid_constant__ ForwardParams params",
                                 "combine_splits<kConfig>(params);"};

}  // namespace

SplitMerge::SplitMerge(const Problem& problem, const DeviceInfo& device, const CombineConfig& config)
    : config_(config), sm_limit_(problem.sm_limit), kernel_(kCombineForm, config, device, 0) {}

Status SplitMerge::launch(CUstream stream, uint32_t run_flags, const ForwardParams& params) const {
  const int64_t groups = int64_t{params.items} / params.splits.value * params.combine_groups;
  return kernel_.launch(stream, run_flags, {limited_blocks(groups, sm_limit_), static_cast<unsigned>(config_.threads()), 0},
                        &params);
}

KernelRequest merge_request(const CombineConfig& config, const DeviceInfo& device) {
  return kernel_request(kCombineForm, config, device.compute_capability);
}

}  // namespace flash_attn::cuda
