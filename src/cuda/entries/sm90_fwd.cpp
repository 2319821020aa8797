// Host half of the Hopper forward kernel (kernels/sm90_fwd.cuh): the plan that encodes its maps and launches it.
#include "core/backend.h"
#include "cuda/driver.h"
#include "cuda/entries/entry.h"
#include "cuda/entries/forward_choices.h"
#include "cuda/entries/forward_params.h"
#include "cuda/entries/planned_kernel.h"
#include "cuda/entries/sm80_config.h"
#include "cuda/entries/split_merge.h"
#include "cuda/entries/sm90_config.h"
#include "cuda/entries/sm90_few_rows.h"
#include "cuda/jit/source.h"
#include "cuda/jit/wgmma_text.h"
#include "cuda/kept_map.h"
#include "cuda/launch.h"

#include <algorithm>
#include <cstdint>
#include <new>

namespace flash_attn::cuda {
namespace {

std::string matrix_instructions(const void* config) {
  const auto& c = *static_cast<const Sm90ForwardConfig*>(config);
  std::string text = wgmma_text(c.tile_k, c.dtype);
  if (c.d_v != c.tile_k) text += wgmma_text(c.d_v, c.dtype);
  return text;
}

const KernelForm kForwardForm = {"sm90_fwd",
                                 "cuda/kernels/sm90_fwd.cuh",
                                 "Sm90ForwardConfig",
                                 "__launch_bounds__(kConfig.threads(), kConfig.blocks_per_sm)",
                                 "const __grid_constant__ Sm90ForwardArguments arguments",
                                 "sm90_forward<Config>(arguments);",
                                 matrix_instructions};

CombineConfig combine_config(const Sm90ForwardConfig& config) {
  CombineConfig combine;
  combine.o_dtype = config.o_dtype;
  combine.d_v = config.row_d_v;
  combine.tile_q = config.tile_q();
  combine.has_lengths = config.has_lengths;
  return combine;
}

class Sm90Plan final : public Plan {
 public:
  Sm90Plan(const Problem& problem, const DeviceInfo& device, const Sm90Choice& choice)
      : problem_(problem),
        choice_(choice),
        params_(shape_sm90_params(problem, device, choice_)),
        multiprocessors_(multiprocessors_of(problem, device)),
        kernel_(kForwardForm, choice_.config, device, Sm90Layout(choice_.config).total),
        merge_(problem, device, combine_config(choice_.config)),
        name_(kForwardForm.name, device) {}

  const char* kernel() const override { return name_.text(); }

  WorkspaceSize workspace() const override {
    WorkspaceSize size;
    if (config().is_dynamic || config().merges_splits) size.state_bytes = kSm90CounterBytes;
    if (config().merges_splits) {
      size.state_bytes += static_cast<size_t>(params_.items) / params_.splits.value * sizeof(unsigned);
      size.scratch_bytes = part_bytes_sm90(int64_t{params_.items} * choice_.part_rows, problem_.d_v);
    } else if (config().has_splits) {
      size.scratch_bytes = static_cast<size_t>(params_.items) * partial_bytes(problem_, config().tile_q());
    }
    return size;
  }

  std::string text() const override {
    std::string text = format_text(
        "tiles of %d rows by %d keys, %d consumer warp groups, %d stages, %d bytes of shared memory, %d items on %d blocks, %u "
        "splits\n",
        config().tile_q(), config().tile_k, config().groups, config().stages, Sm90Layout(config()).total, params_.items, blocks(),
        params_.splits.value);
    if (config().gathers_q)
      text += "threads read q and write o, not tensor maps: " + query_obstacle_text(problem_, config(), choice_.obstacle_q) + "\n";
    if (config().gathers_k)
      text += "threads read k and v, not tensor maps: " + key_obstacle_text(problem_, config(), choice_.obstacle_k) + "\n";
    return text + "config: " + kernel_.name();
  }

  Status prepare(void* context) const override {
    FA_TRY(kernel_.prepare(static_cast<CUcontext>(context)));
    return merges_apart() ? merge_.prepare(static_cast<CUcontext>(context)) : Status();
  }

  // All of it: other plans may use it next, with more tiles.
  Status init_state(void* state, size_t bytes, void* stream) const override {
    if (bytes == 0) return {};
    const Driver* driver = nullptr;
    FA_TRY(get_driver(&driver));
    const CUresult result = driver->cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(state), 0, bytes, static_cast<CUstream>(stream));
    return result == kCudaSuccess ? Status() : driver_status(*driver, result, "zeroing the state");
  }

  Status run(const fa_attention_args& args, const fa_workspace& workspace, void* stream, uint32_t run_flags) const override {
    if (params_.items == 0) return {};
    Sm90ForwardArguments arguments;
    arguments.params = params_;
    arguments.extras = sm90_extras(choice_);
    bind_pointers(problem_, args, &arguments.params);
    arguments.params.partials = static_cast<float*>(workspace.scratch);
    arguments.extras.counter = static_cast<unsigned*>(workspace.state);
    if (config().merges_splits) arguments.extras.finished = arguments.extras.counter + kSm90CounterBytes / sizeof(unsigned);
    FA_TRY(bind_maps(args, &arguments));
    FA_TRY(kernel_.launch(static_cast<CUstream>(stream), run_flags,
                          {static_cast<unsigned>(blocks()), static_cast<unsigned>(config().threads()),
                           static_cast<unsigned>(Sm90Layout(config()).total)},
                          &arguments));
    return merges_apart() ? merge_.launch(static_cast<CUstream>(stream), run_flags, arguments.params) : Status();
  }

 private:
  const Sm90ForwardConfig& config() const { return choice_.config; }
  bool merges_apart() const { return config().has_splits && !config().merges_splits; }
  int blocks() const {
    const int most = problem_.sm_limit > 0 ? multiprocessors_ : multiprocessors_ * config().blocks_per_sm;
    return std::min(params_.items, most);
  }

  Status bind_maps(const fa_attention_args& args, Sm90ForwardArguments* to) const {
    const Sm90Maps& maps = choice_.maps;
    if (!config().gathers_q) {
      FA_TRY(q_map_.bind(maps.q, args.q, &to->q));
      FA_TRY(o_map_.bind(maps.o, args.o, &to->o));
    }
    if (!config().gathers_k) {
      FA_TRY(k_map_.bind(maps.k, args.k ? args.k : args.q, &to->k));  // without keys, nothing is read
      FA_TRY(v_map_.bind(maps.v, args.v ? args.v : args.q, &to->v));
    }
    return {};
  }

  const Problem& problem_;
  Sm90Choice choice_;
  KeptMap q_map_, k_map_, v_map_, o_map_;
  ForwardParams params_;
  int multiprocessors_;
  PlannedKernelOf<Sm90ForwardConfig> kernel_;
  SplitMerge merge_;
  PlanName name_;
};

Status supports(const Problem& problem, const DeviceInfo& device) {
  Sm90Choice choice;
  return choose_sm90(problem, device, &choice);
}

Status make_plan(const Problem& problem, const DeviceInfo& device, Plan** plan) {
  Sm90Choice choice;
  FA_TRY(choose_sm90(problem, device, &choice));
  *plan = new (std::nothrow) Sm90Plan(problem, device, choice);
  return *plan ? Status() : Status(FA_STATUS_OUT_OF_MEMORY, "no memory for a plan");
}

Status list_kernels(const Problem& problem, const DeviceInfo& device, std::vector<KernelRequest>* requests) {
  Sm90Choice choice;
  FA_TRY(choose_sm90(problem, device, &choice));
  requests->push_back(kernel_request(kForwardForm, choice.config, device.compute_capability));
  if (choice.config.has_splits && !choice.config.merges_splits)
    requests->push_back(merge_request(combine_config(choice.config), device));
  return {};
}

}  // namespace

extern const KernelEntry kSm90ForwardEntry = {"sm90_fwd",   supports,           make_plan, bound_sm90_workspace,
                                              list_kernels, Direction::forward, 90,        false};

}  // namespace flash_attn::cuda
