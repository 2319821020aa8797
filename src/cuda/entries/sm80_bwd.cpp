// Host half of the mma.sync backward (kernels/sm80_bwd.cuh): what it serves, and the plan that launches its kernels between the
// passes that every backward makes.
#include "core/backend.h"
#include "cuda/entries/backward_passes.h"
#include "cuda/entries/entry.h"
#include "cuda/entries/planned_kernel.h"
#include "cuda/entries/sm80_bwd_config.h"

#include <new>
#include <optional>

namespace flash_attn::cuda {
namespace {

const KernelForm kBackwardForm = {"sm80_bwd",
                                  "cuda/kernels/sm80_bwd.cuh",
                                  "Sm80BackwardConfig",
                                  "__launch_bounds__(kConfig.threads(), kConfig.blocks_per_sm)",
                                  "const __grid_constant__ BackwardParams params",
                                  "sm80_backward<kConfig>(params);"};

// A kernel of the plan and how its work is cut.
struct MainKernel {
  Sm80BackwardConfig config;
  BackwardCut cut;
  PlannedKernelOf<Sm80BackwardConfig> kernel;

  MainKernel(const Problem& problem, const DeviceInfo& device, const Sm80BackwardConfig& chosen)
      : config(chosen), cut(cut_backward(problem, device, chosen)), kernel(kBackwardForm, chosen, device, chosen.shared_bytes()) {}
};

class Sm80BackwardPlan final : public Plan {
 public:
  Sm80BackwardPlan(const Problem& problem, const DeviceInfo& device, const Sm80BackwardChoice& choice)
      : passes_(problem, device, choice.shape), name_(kBackwardForm.name, device) {
    int n = 0;
    for (const Sm80BackwardConfig& config : choice.kernels) kernels_[n++].emplace(problem, device, config);
  }

  const char* kernel() const override { return name_.text(); }

  WorkspaceSize workspace() const override {
    WorkspaceSize size;
    size.scratch_bytes = passes_.scratch_bytes();
    return size;
  }

  std::string text() const override {
    std::string text = passes_.text();
    for (const auto& main : kernels_) {
      if (!main) break;
      text += format_text("\ntiles of %d queries by %d keys, %d warps, %d bytes of shared memory, %d items\nconfig: %s",
                          main->config.tile_q, main->config.tile_k, main->config.warps, main->config.shared_bytes(),
                          main->cut.items, main->kernel.name().c_str());
    }
    return text;
  }

  Status prepare(void* context) const override {
    FA_TRY(passes_.prepare(context));
    for (const auto& main : kernels_)
      if (main) FA_TRY(main->kernel.prepare(static_cast<CUcontext>(context)));
    return {};
  }

  Status init_state(void*, size_t, void*) const override { return {}; }

  Status run(const fa_attention_args& args, const fa_workspace& workspace, void* stream, uint32_t run_flags) const override {
    const BackwardParams bound = passes_.bind(args, workspace.scratch);
    FA_TRY(passes_.run_before(stream, run_flags, bound));
    BackwardParams params = bound;
    for (const auto& main : kernels_) {
      if (!main || main->cut.items == 0) continue;
      main->cut.write(&params);
      FA_TRY(main->kernel.launch(static_cast<CUstream>(stream), run_flags,
                                 {passes_.blocks(params.items), static_cast<unsigned>(main->config.threads()),
                                  static_cast<unsigned>(main->config.shared_bytes())},
                                 &params));
    }
    return passes_.run_after(stream, run_flags, bound);
  }

 private:
  BackwardPasses passes_;
  std::optional<MainKernel> kernels_[Sm80BackwardKernels::kMost];  // the first ones
  PlanName name_;
};

Status choose(const Problem& problem, const DeviceInfo& device, Sm80BackwardChoice* choice) {
  FA_TRY(check_backward_features(problem));
  return configure_sm80_backward(problem, device, choice);
}

Status supports(const Problem& problem, const DeviceInfo& device) {
  Sm80BackwardChoice choice;
  return choose(problem, device, &choice);
}

Status make_plan(const Problem& problem, const DeviceInfo& device, Plan** plan) {
  Sm80BackwardChoice choice;
  FA_TRY(choose(problem, device, &choice));
  *plan = new (std::nothrow) Sm80BackwardPlan(problem, device, choice);
  return *plan ? Status() : Status(FA_STATUS_OUT_OF_MEMORY, "no memory for a plan");
}

Status list_kernels(const Problem& problem, const DeviceInfo& device, std::vector<KernelRequest>* requests) {
  Sm80BackwardChoice choice;
  FA_TRY(configure_sm80_backward(problem, device, &choice));
  list_backward_passes(problem, device, choice.shape, requests);
  for (const Sm80BackwardConfig& config : choice.kernels)
    requests->push_back(kernel_request(kBackwardForm, config, device.compute_capability));
  return {};
}

}  // namespace

extern const KernelEntry kSm80BackwardEntry = {"sm80_bwd",   supports,           make_plan, bound_sm80_backward_workspace,
                                               list_kernels, Direction::backward};

}  // namespace flash_attn::cuda
