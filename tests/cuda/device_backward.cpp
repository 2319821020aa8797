// See device_backward.h.
#include "tests/cuda/device_backward.h"

namespace flash_attn::test {
namespace {

// Of the tensor whose memory begins at `base`.
size_t element_of(const BackwardProblem& problem, const void* base) {
  const fa_attention_args& args = problem.args();
  const fa_attention_desc& desc = problem.desc();
  if (base == args.tree_mask || base == args.dropout_seed_ptr) return 8;
  if (base == args.mask) return 1;
  const struct {
    const void* base;
    fa_dtype dtype;
  } tensors[] = {{args.q, desc.q.dtype},   {args.k, desc.k.dtype},       {args.v, desc.v.dtype},
                 {args.o, desc.o.dtype},   {args.dq, desc.dq.dtype},     {args.dk, desc.dk.dtype},
                 {args.dv, desc.dv.dtype}, {args.dout, desc.dout.dtype}, {args.bias, desc.bias.dtype}};
  for (const auto& tensor : tensors)
    if (base == tensor.base) return static_cast<size_t>(element_bytes(tensor.dtype));
  return 4;
}

}  // namespace

DeviceBackward::DeviceBackward(const BackwardProblem& problem, Placement placement, const std::string& kernel)
    : DeviceMemory(placement), desc_(problem.desc()), args_(problem.args()) {
  desc_.device_type = FA_DEVICE_CUDA;
  desc_.num_threads = 0;
  desc_.kernel = kernel.empty() ? forced_kernel() : kernel.c_str();
  for (const GuardedBuffer* buffer : problem.inputs()) place(*buffer, element_of(problem, buffer->data()), false);
  for (const GuardedBuffer* buffer : problem.outputs()) place(*buffer, element_of(problem, buffer->data()), true);
  allocate();
  move_all();
  promise();
  fill();
}

void DeviceBackward::move_all() {
  for (const void** pointer : {&args_.q, &args_.k, &args_.v, &args_.bias, &args_.dout}) move(*pointer);
  for (void** pointer : {&args_.o, &args_.dq, &args_.dk, &args_.dv}) move(*pointer);
  for (const int32_t** pointer : {&args_.cu_seqlens_q, &args_.cu_seqlens_k, &args_.seqused_q, &args_.seqused_k, &args_.leftpad_k,
                                  &args_.mask_kinds, &args_.diagonal_offsets, &args_.tree_sizes})
    move(*pointer);
  for (const float** pointer : {&args_.alibi, &args_.sink, &args_.dlse}) move(*pointer);
  for (float** pointer : {&args_.lse, &args_.dbias, &args_.dsink, &args_.dslopes}) move(*pointer);
  for (const uint64_t** pointer : {&args_.tree_mask, &args_.dropout_seed_ptr, &args_.dropout_offset_ptr}) move(*pointer);
  move(args_.mask);
}

void DeviceBackward::promise() {
  desc_.q.alignment = alignment_of(args_.q);
  desc_.k.alignment = alignment_of(args_.k);
  desc_.v.alignment = alignment_of(args_.v);
  desc_.o.alignment = alignment_of(args_.o);
  desc_.dout.alignment = alignment_of(args_.dout);
  desc_.dq.alignment = alignment_of(args_.dq);
  desc_.dk.alignment = alignment_of(args_.dk);
  desc_.dv.alignment = alignment_of(args_.dv);
}

BackwardRun run_backward_on_device(BackwardProblem* problem, DeviceBackward* device, const DeviceStream& stream) {
  BackwardRun run;
  const PlanHandle plan(device->desc(), {});
  run.status = plan.status();
  if (run.status == FA_STATUS_UNSUPPORTED) count_on_device(problem->spec(), problem->dtype(), device->desc(), false);
  if (run.status == FA_STATUS_OK) run.status = fa_prepare(plan.get(), nullptr);
  if (run.status == FA_STATUS_OK) {
    run.kernel = fa_plan_kernel(plan.get());
    fa_workspace workspace = {};
    fa_workspace_init(&workspace);
    fa_plan_workspace(plan.get(), &workspace.scratch_bytes, &workspace.state_bytes);
    workspace.scratch = device->scratch(workspace.scratch_bytes);
    device->upload();
    run.status = fa_run(plan.get(), &device->args(), &workspace, stream.get(), FA_RUN_NO_COMPILE);
    stream.synchronize();
  }
  if (run.status != FA_STATUS_OK) {
    run.message = fa_last_error();
    return run;
  }
  count_on_device(problem->spec(), problem->dtype(), device->desc(), true);
  run.fault = device->download();
  run.gradients = problem->read_outputs();
  if (run.fault.empty()) run.fault = problem->find_damage();
  problem->reset_outputs();
  return run;
}

}  // namespace flash_attn::test
