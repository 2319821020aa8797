// Host half of the Hopper backward kernel (kernels/sm90_bwd.cuh): the plan that encodes its maps and launches it between the passes
// that every backward makes.
#include "core/backend.h"
#include "cuda/driver.h"
#include "cuda/entries/backward_passes.h"
#include "cuda/entries/entry.h"
#include "cuda/entries/planned_kernel.h"
#include "cuda/entries/sm90_bwd_config.h"
#include "cuda/jit/wgmma_text.h"
#include "cuda/kept_map.h"

#include <algorithm>
#include <new>
#include <set>

namespace flash_attn::cuda {
namespace {

std::string matrix_instructions(const void* config) {
  const auto& c = *static_cast<const Sm90BackwardConfig*>(config);
  std::string text;
  for (const int columns : std::set<int>{c.tile_q, c.d, c.d_v, c.dq_columns()}) text += wgmma_backward_text(columns, c.dtype);
  return text;
}

const KernelForm kBackwardForm = {"sm90_bwd",
                                  "cuda/kernels/sm90_bwd.cuh",
                                  "Sm90BackwardConfig",
                                  "__launch_bounds__(kConfig.kThreads, 1)",
                                  "const __grid_constant__ Sm90BackwardArguments arguments",
                                  "sm90_backward<Config>(arguments);",
                                  matrix_instructions};

class Sm90BackwardPlan final : public Plan {
 public:
  Sm90BackwardPlan(const Problem& problem, const DeviceInfo& device, const Sm90BackwardConfig& config)
      : config_(config),
        maps_(map_backward_shapes(problem, config)),
        arguments_(shape_sm90_backward(problem, device, config)),
        passes_(problem, device, sm90_backward_shape(config)),
        turn_bytes_(sm90_turn_bytes(problem, passes_.params(), config)),
        kernel_(kBackwardForm, config, device, Sm90BackwardLayout(config).total),
        name_(kBackwardForm.name, device) {}

  const char* kernel() const override { return name_.text(); }

  WorkspaceSize workspace() const override {
    WorkspaceSize size;
    size.scratch_bytes = passes_.scratch_bytes() + turn_bytes_;
    return size;
  }

  std::string text() const override {
    std::string text =
        passes_.text() + format_text("\ntiles of %d queries by %d keys, %d bytes of shared memory, %d blocks\nconfig: %s",
                                     config_.tile_q, config_.tile_k(), Sm90BackwardLayout(config_).total, blocks(),
                                     kernel_.name().c_str());
    return text;
  }

  Status prepare(void* context) const override {
    FA_TRY(passes_.prepare(context));
    return kernel_.prepare(static_cast<CUcontext>(context));
  }

  Status init_state(void*, size_t, void*) const override { return {}; }

  Status run(const fa_attention_args& args, const fa_workspace& workspace, void* stream, uint32_t run_flags) const override {
    Sm90BackwardArguments arguments = arguments_;
    arguments.params = passes_.bind(args, workspace.scratch);
    FA_TRY(passes_.run_before(stream, run_flags, arguments.params));
    if (blocks() > 0) {
      FA_TRY(bind_maps(args, &arguments));
      if (turn_bytes_ > 0) FA_TRY(clear_turns(workspace, stream, &arguments));
      FA_TRY(kernel_.launch(static_cast<CUstream>(stream), run_flags,
                            {static_cast<unsigned>(blocks()), static_cast<unsigned>(Sm90BackwardConfig::kThreads),
                             static_cast<unsigned>(Sm90BackwardLayout(config_).total)},
                            &arguments));
    }
    return passes_.run_after(stream, run_flags, arguments.params);
  }

 private:
  int blocks() const { return arguments_.units * arguments_.tiles_k; }

  // Tensors without elements need no pointer, but a map does.
  Status bind_maps(const fa_attention_args& args, Sm90BackwardArguments* to) const {
    const auto bind = [&args](const KeptMap& kept, const MapShape& shape, const void* base, TensorMap* map) {
      return kept.bind(shape, base ? base : args.dk, map);
    };
    FA_TRY(bind(q_map_, maps_.q, args.q, &to->q));
    FA_TRY(bind(k_map_, maps_.k, args.k, &to->k));
    FA_TRY(bind(v_map_, maps_.v, args.v, &to->v));
    FA_TRY(bind(dout_map_, maps_.dout, args.dout, &to->dout));
    FA_TRY(bind(dk_map_, maps_.dk, args.dk, &to->dk));
    return bind(dv_map_, maps_.dv, args.dv, &to->dv);
  }

  Status clear_turns(const fa_workspace& workspace, void* stream, Sm90BackwardArguments* to) const {
    to->turns = reinterpret_cast<unsigned*>(static_cast<char*>(workspace.scratch) + passes_.scratch_bytes());
    const Driver* driver = nullptr;
    FA_TRY(get_driver(&driver));
    const CUresult result =
        driver->cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(to->turns), 0, turn_bytes_, static_cast<CUstream>(stream));
    return result == kCudaSuccess ? Status() : driver_status(*driver, result, "zeroing the order of the key tiles");
  }

  Sm90BackwardConfig config_;
  Sm90BackwardMaps maps_;
  KeptMap q_map_, k_map_, v_map_, dout_map_, dk_map_, dv_map_;
  Sm90BackwardArguments arguments_;
  BackwardPasses passes_;
  size_t turn_bytes_;
  PlannedKernelOf<Sm90BackwardConfig> kernel_;
  PlanName name_;
};

Status make_plan(const Problem& problem, const DeviceInfo& device, Plan** plan) {
  FA_TRY(supports_sm90_backward(problem, device));
  *plan = new (std::nothrow) Sm90BackwardPlan(problem, device, configure_sm90_backward(problem));
  return *plan ? Status() : Status(FA_STATUS_OUT_OF_MEMORY, "no memory for a plan");
}

// The taller tile has most rows to round up to.
WorkspaceSize bound_workspace(const Problem& problem, const DeviceInfo&) {
  WorkspaceSize size;
  Sm90BackwardConfig config = configure_sm90_backward(problem);
  BackwardShape shape = sm90_backward_shape(config);
  shape.stat_tile = 128;
  const BackwardParams params = shape_backward_params(problem, shape);
  size.scratch_bytes = backward_scratch_bytes(problem, shape);
  config.tile_q = 64;
  size.scratch_bytes += sm90_turn_bytes(problem, params, config);
  return size;
}

Status list_kernels(const Problem& problem, const DeviceInfo& device, std::vector<KernelRequest>* requests) {
  const Sm90BackwardConfig config = configure_sm90_backward(problem);
  list_backward_passes(problem, device, sm90_backward_shape(config), requests);
  requests->push_back(kernel_request(kBackwardForm, config, device.compute_capability));
  return {};
}

}  // namespace

extern const KernelEntry kSm90BackwardEntry = {"sm90_bwd",   supports_sm90_backward, make_plan, bound_workspace,
                                               list_kernels, Direction::backward,    90,        false};

}  // namespace flash_attn::cuda
