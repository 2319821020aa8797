// See device_backward.h.
#include "tests/cuda/device_backward.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace flash_attn::test {
namespace {

constexpr size_t kGap = 512;  // poison before and after every buffer

void require(cuda::CUresult result, const char* action) {
  if (result == cuda::kCudaSuccess) return;
  std::fprintf(stderr, "%s\n", cuda::driver_status(require_gpu(), result, action).message().c_str());
  std::exit(1);
}

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
    : driver_(require_gpu()), placement_(placement), desc_(problem.desc()), args_(problem.args()) {
  desc_.device_type = FA_DEVICE_CUDA;
  desc_.num_threads = 0;
  desc_.kernel = kernel.empty() ? forced_kernel() : kernel.c_str();
  for (const GuardedBuffer* buffer : problem.inputs()) place(*buffer, element_of(problem, buffer->data()), false);
  for (const GuardedBuffer* buffer : problem.outputs()) place(*buffer, element_of(problem, buffer->data()), true);
  end_ += kGap;
  image_.assign(end_, 0xFF);
  require(driver_.cuMemAlloc(&memory_, end_), "allocating");
  move_all();
  promise();
  for (const Part& part : parts_)
    if (part.source->bytes() > 0) std::memcpy(&image_[part.at], part.source->data(), part.source->bytes());
}

DeviceBackward::~DeviceBackward() {
  driver_.cuMemFree(memory_);
  if (scratch_) driver_.cuMemFree(scratch_);
}

void DeviceBackward::place(const GuardedBuffer& buffer, size_t element, bool is_output) {
  const size_t at = (end_ + kGap + 255) / 256 * 256 + (placement_ == Placement::unaligned ? element : 0);
  end_ = at + buffer.bytes();
  parts_.push_back({&buffer, at, is_output});
}

template <class T>
void DeviceBackward::move(T*& pointer) const {
  if (pointer == nullptr) return;
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  for (const Part& part : parts_) {
    const auto base = reinterpret_cast<uintptr_t>(part.source->data());
    if (at < base || at > base + part.source->bytes()) continue;
    pointer = reinterpret_cast<T*>(memory_ + part.at + (at - base));
    return;
  }
  std::fprintf(stderr, "a pointer of the test problem lies in none of its buffers\n");
  std::exit(1);
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
  const auto alignment = [](const void* base) -> int64_t {
    const uintptr_t low = reinterpret_cast<uintptr_t>(base) & 15;
    return low == 0 ? 16 : static_cast<int64_t>(low & (~low + 1));
  };
  desc_.q.alignment = alignment(args_.q);
  desc_.k.alignment = alignment(args_.k);
  desc_.v.alignment = alignment(args_.v);
  desc_.o.alignment = alignment(args_.o);
  desc_.dout.alignment = alignment(args_.dout);
  desc_.dq.alignment = alignment(args_.dq);
  desc_.dk.alignment = alignment(args_.dk);
  desc_.dv.alignment = alignment(args_.dv);
}

void DeviceBackward::upload() { copy_to_device(memory_, image_.data(), image_.size()); }

const void* DeviceBackward::original(const void* device_pointer) const {
  return &image_[reinterpret_cast<uintptr_t>(device_pointer) - memory_];
}

void* DeviceBackward::scratch(size_t bytes) {
  if (scratch_) driver_.cuMemFree(scratch_);
  scratch_ = 0;
  scratch_bytes_ = bytes;
  if (bytes == 0) return nullptr;
  require(driver_.cuMemAlloc(&scratch_, bytes + 2 * kGap), "allocating scratch");
  const std::vector<unsigned char> filling(bytes + 2 * kGap, 0xFF);
  copy_to_device(scratch_, filling.data(), filling.size());
  return reinterpret_cast<void*>(scratch_ + kGap);
}

std::string DeviceBackward::download() {
  std::vector<unsigned char> now(image_.size());
  require(driver_.cuMemcpyDtoH(now.data(), memory_, now.size()), "copying from the device");
  for (const Part& part : parts_) {
    if (!part.is_output || part.source->bytes() == 0) continue;
    std::memcpy(part.source->data(), &now[part.at], part.source->bytes());
    std::memcpy(&now[part.at], &image_[part.at], part.source->bytes());
  }
  for (size_t n = 0; n < now.size(); ++n)
    if (now[n] != image_[n]) return "device memory was written outside the gradients, byte " + std::to_string(n);
  if (scratch_ == 0) return "";
  std::vector<unsigned char> guards(scratch_bytes_ + 2 * kGap);
  require(driver_.cuMemcpyDtoH(guards.data(), scratch_, guards.size()), "copying scratch from the device");
  for (size_t n = 0; n < kGap; ++n)
    if (guards[n] != 0xFF || guards[kGap + scratch_bytes_ + n] != 0xFF) return "device memory beside the scratch was written";
  return "";
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
