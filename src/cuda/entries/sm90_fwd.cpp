// Host half of the Hopper forward kernel (kernels/sm90_fwd.cuh): the plan that encodes its maps and launches it.
#include "core/backend.h"
#include "cuda/driver.h"
#include "cuda/entries/entry.h"
#include "cuda/entries/sm90_config.h"
#include "cuda/jit/source.h"
#include "cuda/jit/wgmma_text.h"
#include "cuda/launch.h"

#include <algorithm>
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
                                 "__launch_bounds__(kConfig.threads(), 1)",
                                 "const __grid_constant__ Sm90ForwardArguments arguments",
                                 "sm90_forward<Config>(arguments);",
                                 matrix_instructions};

constexpr size_t kCounterBytes = 2 * sizeof(unsigned);

class Sm90Plan final : public Plan {
 public:
  Sm90Plan(const Problem& problem, const DeviceInfo& device, const Sm90ForwardConfig& config)
      : problem_(problem),
        config_(config),
        maps_(map_shapes(problem, config)),
        params_(shape_sm90_params(problem, device, config)),
        blocks_(std::min(params_.tiles,
                         problem.sm_limit > 0 ? std::min(problem.sm_limit, device.multiprocessors) : device.multiprocessors)),
        kernel_(find_kernel(config, device), config_name(kForwardForm, config), device, Sm90Layout(config).total),
        name_("cuda/sm90_fwd/" + arch_name(device.compute_capability)) {}

  const char* kernel() const override { return name_.c_str(); }

  WorkspaceSize workspace() const override {
    WorkspaceSize size;
    if (config_.is_dynamic) size.state_bytes = kCounterBytes;
    return size;
  }

  std::string text() const override {
    return format_text(
        "tiles of %d rows by %d keys, %d consumer warp groups, %d stages, %d bytes of shared memory, %d tiles on %d blocks\n"
        "config: %s",
        config_.tile_q(), config_.tile_k, config_.groups, config_.stages, Sm90Layout(config_).total, params_.tiles, blocks_,
        kernel_.name().c_str());
  }

  Status prepare(void* context) const override { return kernel_.prepare(static_cast<CUcontext>(context)); }

  Status init_state(void* state, size_t, void* stream) const override {
    if (!config_.is_dynamic) return {};
    const Driver* driver = nullptr;
    FA_TRY(get_driver(&driver));
    const CUresult result =
        driver->cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(state), 0, kCounterBytes, static_cast<CUstream>(stream));
    return result == kCudaSuccess ? Status() : driver_status(*driver, result, "zeroing the state");
  }

  Status run(const fa_attention_args& args, const fa_workspace& workspace, void* stream, uint32_t run_flags) const override {
    if (params_.tiles == 0) return {};
    Sm90ForwardArguments arguments;
    arguments.params = params_;
    bind(args, workspace, &arguments.params);
    FA_TRY(encode_map(maps_.q, args.q, &arguments.q));
    FA_TRY(encode_map(maps_.k, args.k ? args.k : args.q, &arguments.k));  // without keys, nothing is read
    FA_TRY(encode_map(maps_.v, args.v ? args.v : args.q, &arguments.v));
    FA_TRY(encode_map(maps_.o, args.o, &arguments.o));
    return kernel_.launch(static_cast<CUstream>(stream), run_flags,
                          {static_cast<unsigned>(blocks_), static_cast<unsigned>(config_.threads()),
                           static_cast<unsigned>(Sm90Layout(config_).total)},
                          &arguments);
  }

 private:
  static PlannedKernel::Find find_kernel(const Sm90ForwardConfig& config, const DeviceInfo& device) {
    return [config, capability = device.compute_capability](LoadPolicy policy, const LoadedKernel** kernel) {
      return get_kernel(kForwardForm, config, capability, policy, kernel);
    };
  }

  static void bind(const fa_attention_args& args, const fa_workspace& workspace, Sm90ForwardParams* to) {
    to->lse = args.lse;
    to->counter = static_cast<unsigned*>(workspace.state);
    to->sink = args.sink;
    to->alibi = args.alibi;
    to->cu_seqlens_q = args.cu_seqlens_q;
    to->cu_seqlens_k = args.cu_seqlens_k;
    to->seqused_q = args.seqused_q;
    to->seqused_k = args.seqused_k;
    to->leftpad_k = args.leftpad_k;
    to->cache_batch_idx = args.cache_batch_idx;
    to->mask_kinds = args.mask_kinds;
    to->diagonal_offsets = args.diagonal_offsets;
  }

  Problem problem_;
  Sm90ForwardConfig config_;
  Sm90Maps maps_;
  Sm90ForwardParams params_;
  int blocks_;
  PlannedKernel kernel_;
  std::string name_;
};

Status make_plan(const Problem& problem, const DeviceInfo& device, Plan** plan) {
  *plan = new (std::nothrow) Sm90Plan(problem, device, configure_sm90(problem));
  return *plan ? Status() : Status(FA_STATUS_OUT_OF_MEMORY, "no memory for a plan");
}

WorkspaceSize bound_workspace(const Problem&, const DeviceInfo&) {
  WorkspaceSize size;
  size.state_bytes = kCounterBytes;
  return size;
}

Status list_kernels(const Problem& problem, const DeviceInfo& device, std::vector<KernelRequest>* requests) {
  requests->push_back(kernel_request(kForwardForm, configure_sm90(problem), device.compute_capability));
  return {};
}

}  // namespace

extern const KernelEntry kSm90ForwardEntry = {"sm90_fwd", supports_sm90, make_plan, bound_workspace, list_kernels};

}  // namespace flash_attn::cuda
