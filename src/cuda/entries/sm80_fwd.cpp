// Host half of the mma.sync forward kernel (kernels/sm80_fwd.cuh): what it serves, which tiles it takes, how a run is cut into
// items, and the plan that launches it.
#include "core/backend.h"
#include "cuda/entries/entry.h"
#include "cuda/entries/forward_choices.h"
#include "cuda/entries/forward_params.h"
#include "cuda/entries/planned_kernel.h"
#include "cuda/entries/sm80_config.h"
#include "cuda/entries/split_merge.h"
#include "cuda/jit/source.h"
#include "cuda/kernels/configs.h"
#include "cuda/kernels/params.h"
#include "cuda/launch.h"

#include <algorithm>
#include <new>

namespace flash_attn::cuda {
namespace {

const KernelForm kForwardForm = {"sm80_fwd",
                                 "cuda/kernels/sm80_fwd.cuh",
                                 "Sm80ForwardConfig",
                                 "__launch_bounds__(kConfig.threads(), kConfig.blocks_per_sm)",
                                 "const __grid_constant__ ForwardParams params",
                                 "sm80_forward<kConfig>(params);"};

// Heads whose keys and values half of the L2 cache holds are swept together.
int section_of(const Problem& p, const DeviceInfo& device, int heads) {
  const int64_t bytes = std::max<int64_t>(1, p.max_s_k * (p.d + p.d_v) * dtype_bytes(p.dtype));
  return static_cast<int>(std::clamp<int64_t>(device.l2_bytes / 2 / bytes, 1, std::max(heads, 1)));
}

ForwardParams shape_sm80_params(const Problem& p, const DeviceInfo& device, const Sm80ForwardConfig& config, int splits) {
  ForwardParams params = shape_params(p, p.dropout_p == 0);
  cut_into_items(p, config.tile_q, config.tile_k, splits, &params);
  set_section(section_of(p, device, params.heads), &params);
  return params;
}

CombineConfig combine_config(const Sm80ForwardConfig& config) {
  CombineConfig combine;
  combine.o_dtype = config.o_dtype;
  combine.d_v = config.d_v;
  combine.tile_q = config.tile_q;
  combine.has_lengths = config.has_lengths;
  return combine;
}

class Sm80Plan final : public Plan {
 public:
  Sm80Plan(const Problem& problem, const DeviceInfo& device, const Sm80ForwardConfig& config, int splits)
      : problem_(problem),
        config_(config),
        params_(shape_sm80_params(problem, device, config, splits)),
        kernel_(kForwardForm, config, device, config.shared_bytes()),
        merge_(problem, device, combine_config(config)),
        name_(kForwardForm.name, device) {}

  const char* kernel() const override { return name_.text(); }

  WorkspaceSize workspace() const override {
    WorkspaceSize size;
    if (config_.has_splits) size.scratch_bytes = static_cast<size_t>(params_.items) * partial_bytes(problem_, config_.tile_q);
    return size;
  }

  std::string text() const override {
    return format_text(
        "tiles of %d rows by %d keys, %d warps, %d bytes of shared memory, rows in units of %d bytes, %d items, "
        "%u splits\nconfig: %s",
        config_.tile_q, config_.tile_k, config_.warps, config_.shared_bytes(), config_.access, params_.items, params_.splits.value,
        kernel_.name().c_str());
  }

  Status prepare(void* context) const override {
    FA_TRY(kernel_.prepare(static_cast<CUcontext>(context)));
    return config_.has_splits ? merge_.prepare(static_cast<CUcontext>(context)) : Status();
  }

  Status init_state(void*, size_t, void*) const override { return {}; }

  Status run(const fa_attention_args& args, const fa_workspace& workspace, void* stream, uint32_t run_flags) const override {
    if (params_.items == 0) return {};
    ForwardParams params = params_;
    bind_pointers(problem_, args, &params);
    params.partials = static_cast<float*>(workspace.scratch);
    FA_TRY(kernel_.launch(static_cast<CUstream>(stream), run_flags,
                          {limited_blocks(params.items, problem_.sm_limit), static_cast<unsigned>(config_.threads()),
                           static_cast<unsigned>(config_.shared_bytes())},
                          &params));
    return config_.has_splits ? merge_.launch(static_cast<CUstream>(stream), run_flags, params) : Status();
  }

 private:
  const Problem& problem_;
  Sm80ForwardConfig config_;
  ForwardParams params_;
  PlannedKernelOf<Sm80ForwardConfig> kernel_;
  SplitMerge merge_;
  PlanName name_;
};

Status choose(const Problem& problem, const DeviceInfo& device, Sm80ForwardConfig* config, int* splits) {
  FA_TRY(check_forward_features(problem));
  return configure_sm80(problem, device, config, splits);
}

Status supports(const Problem& problem, const DeviceInfo& device) {
  Sm80ForwardConfig config;
  int splits = 1;
  return choose(problem, device, &config, &splits);
}

Status make_plan(const Problem& problem, const DeviceInfo& device, Plan** plan) {
  Sm80ForwardConfig config;
  int splits = 1;
  FA_TRY(choose(problem, device, &config, &splits));
  *plan = new (std::nothrow) Sm80Plan(problem, device, config, splits);
  return *plan ? Status() : Status(FA_STATUS_OUT_OF_MEMORY, "no memory for a plan");
}

Status list_kernels(const Problem& problem, const DeviceInfo& device, std::vector<KernelRequest>* requests) {
  Sm80ForwardConfig config;
  int splits = 1;
  FA_TRY(configure_sm80(problem, device, &config, &splits));
  requests->push_back(kernel_request(kForwardForm, config, device.compute_capability));
  if (config.has_splits) requests->push_back(merge_request(combine_config(config), device));
  return {};
}

}  // namespace

extern const KernelEntry kSm80ForwardEntry = {"sm80_fwd", supports, make_plan, bound_sm80_workspace, list_kernels};

}  // namespace flash_attn::cuda
