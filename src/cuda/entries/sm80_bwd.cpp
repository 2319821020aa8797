// Host half of the mma.sync backward (kernels/sm80_bwd.cuh): what it serves, and the plan that launches its kernels between the
// passes that every backward makes.
#include "core/backend.h"
#include "cuda/entries/backward_passes.h"
#include "cuda/entries/entry.h"
#include "cuda/entries/planned_kernel.h"
#include "cuda/entries/sm80_bwd_config.h"

#include <memory>
#include <new>

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
  BackwardParams cut;  // only what cut_backward fills
  PlannedKernel kernel;

  MainKernel(const Problem& problem, const DeviceInfo& device, const Sm80BackwardConfig& chosen, int stat_tile)
      : config(chosen), kernel(planned_kernel(kBackwardForm, chosen, device, chosen.shared_bytes())) {
    cut.stat_tile = stat_tile;
    cut_backward(problem, device, config, &cut);
  }

  BackwardParams params(const BackwardParams& bound) const {
    BackwardParams to = bound;
    to.heads = cut.heads;
    to.tiles_q = cut.tiles_q;
    to.section = cut.section;
    to.items = cut.items;
    to.bias_requests = cut.bias_requests;
    to.bias_heads = cut.bias_heads;
    to.bias_row_tiles = cut.bias_row_tiles;
    to.bias_key_tiles = cut.bias_key_tiles;
    return to;
  }
};

class Sm80BackwardPlan final : public Plan {
 public:
  Sm80BackwardPlan(const Problem& problem, const DeviceInfo& device, const Sm80BackwardChoice& choice)
      : passes_(problem, device, choice.shape), name_("cuda/sm80_bwd/" + arch_name(device.compute_capability)) {
    for (const Sm80BackwardConfig& config : choice.kernels)
      kernels_.push_back(std::make_unique<MainKernel>(problem, device, config, choice.shape.stat_tile));
  }

  const char* kernel() const override { return name_.c_str(); }

  WorkspaceSize workspace() const override {
    WorkspaceSize size;
    size.scratch_bytes = passes_.scratch_bytes();
    return size;
  }

  std::string text() const override {
    std::string text = passes_.text();
    for (const auto& main : kernels_) {
      text += format_text("\ntiles of %d queries by %d keys, %d warps, %d bytes of shared memory, %d items\nconfig: %s",
                          main->config.tile_q, main->config.tile_k, main->config.warps, main->config.shared_bytes(),
                          main->cut.items, main->kernel.name().c_str());
    }
    return text;
  }

  Status prepare(void* context) const override {
    FA_TRY(passes_.prepare(context));
    for (const auto& main : kernels_) FA_TRY(main->kernel.prepare(static_cast<CUcontext>(context)));
    return {};
  }

  Status init_state(void*, size_t, void*) const override { return {}; }

  Status run(const fa_attention_args& args, const fa_workspace& workspace, void* stream, uint32_t run_flags) const override {
    const BackwardParams bound = passes_.bind(args, workspace.scratch);
    FA_TRY(passes_.run_before(stream, run_flags, bound));
    for (const auto& main : kernels_) {
      if (main->cut.items == 0) continue;
      const BackwardParams params = main->params(bound);
      FA_TRY(main->kernel.launch(static_cast<CUstream>(stream), run_flags,
                                 {passes_.blocks(params.items), static_cast<unsigned>(main->config.threads()),
                                  static_cast<unsigned>(main->config.shared_bytes())},
                                 &params));
    }
    return passes_.run_after(stream, run_flags, bound);
  }

 private:
  BackwardPasses passes_;
  std::vector<std::unique_ptr<MainKernel>> kernels_;
  std::string name_;
};

Status supports(const Problem& problem, const DeviceInfo& device) {
  FA_TRY(check_backward_features(problem));
  Sm80BackwardChoice choice;
  return configure_sm80_backward(problem, device, &choice);
}

Status make_plan(const Problem& problem, const DeviceInfo& device, Plan** plan) {
  Sm80BackwardChoice choice;
  FA_TRY(configure_sm80_backward(problem, device, &choice));
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
