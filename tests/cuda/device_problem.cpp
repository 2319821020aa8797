// See device_problem.h.
#include "tests/cuda/device_problem.h"

#include "cuda/device.h"
#include "tests/support/coverage.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace flash_attn::test {
namespace {

cuda::CUcontext gpu_context = nullptr;

constexpr size_t kGap = 512;  // poison before and after every buffer

void require(cuda::CUresult result, const char* action) {
  if (result == cuda::kCudaSuccess) return;
  const cuda::Driver* driver = nullptr;
  if (cuda::get_driver(&driver).ok()) std::fprintf(stderr, "%s\n", cuda::driver_status(*driver, result, action).message().c_str());
  std::exit(1);
}

size_t element_of(const TestProblem& problem, const void* base) {
  const fa_attention_args& args = problem.args();
  if (base == args.o) return static_cast<size_t>(element_bytes(problem.desc().o.dtype));
  if (base == args.tree_mask || base == args.dropout_seed_ptr) return 8;
  if (base == args.mask) return 1;
  if (base == args.bias) return static_cast<size_t>(element_bytes(problem.desc().bias.dtype));
  if (base == args.q || base == args.k || base == args.v) return static_cast<size_t>(element_bytes(problem.dtype()));
  if (problem.desc().kv_layout == FA_KV_POINTERS) {
    for (int64_t r = 0; r < problem.spec().batch; ++r)
      if (base == args.k_ptrs[r] || base == args.v_ptrs[r]) return static_cast<size_t>(element_bytes(problem.dtype()));
  }
  return 4;
}

}  // namespace

const cuda::Driver& require_gpu() {
  static const cuda::Driver& driver = []() -> const cuda::Driver& {
    const cuda::Driver* found = nullptr;
    if (const Status status = cuda::get_driver(&found); !status.ok()) {
      std::printf("skipped: %s\n", status.message().c_str());
      std::exit(77);
    }
    cuda::CUdevice device = 0;
    require(found->cuDeviceGet(&device, 0), "finding a GPU");
    require(found->cuDevicePrimaryCtxRetain(&gpu_context, device), "opening a context");
    require(found->cuCtxSetCurrent(gpu_context), "making the context current");
    return *found;
  }();
  return driver;
}

const char* forced_kernel() {
  const char* const name = std::getenv("FLASH_ATTN_TEST_KERNEL");
  return name != nullptr && *name != 0 ? name : nullptr;
}

void count_on_device(const CaseSpec& spec, fa_dtype dtype, const fa_attention_desc& desc, bool ran) {
  if (desc.kernel == nullptr) return;
  static const std::string architecture = [] {
    cuda::DeviceInfo info;
    return cuda::get_device(-1, &info).ok() ? "sm_" + std::to_string(info.compute_capability) : std::string();
  }();
  (ran ? count_run : count_refusal)(spec, dtype, desc.kernel, architecture);
}

void require_gpu_on_this_thread() { require(require_gpu().cuCtxSetCurrent(gpu_context), "making the context current"); }

void copy_to_device(cuda::CUdeviceptr to, const void* from, size_t bytes) {
  const cuda::Driver& driver = require_gpu();
  require(driver.cuMemcpyHtoD(to, from, bytes), "copying to the device");
  require(driver.cuStreamSynchronize(nullptr), "copying to the device");
}

DeviceStream::DeviceStream() { require(require_gpu().cuStreamCreate(&stream_, cuda::kStreamNonBlocking), "creating a stream"); }
DeviceStream::~DeviceStream() { require_gpu().cuStreamDestroy(stream_); }
void DeviceStream::synchronize() const { require(require_gpu().cuStreamSynchronize(stream_), "running"); }

DeviceProblem::DeviceProblem(const TestProblem& problem, Placement placement, const std::string& kernel)
    : driver_(require_gpu()), placement_(placement), desc_(problem.desc()), args_(problem.args()) {
  desc_.device_type = FA_DEVICE_CUDA;
  desc_.num_threads = 0;
  desc_.kernel = kernel.empty() ? forced_kernel() : kernel.c_str();
  for (const GuardedBuffer& buffer : problem.inputs()) place(buffer, element_of(problem, buffer.data()));
  place(problem.o_buffer(), element_of(problem, problem.args().o));
  place(problem.lse_buffer(), 4);
  const bool by_pointers = desc_.kv_layout == FA_KV_POINTERS;
  const auto b = static_cast<size_t>(problem.spec().batch);
  const size_t lists = by_pointers ? book(2 * b * 8, 0) : 0;
  end_ += kGap;
  image_.assign(end_, 0xFF);
  require(driver_.cuMemAlloc(&memory_, end_), "allocating");
  if (by_pointers) {
    for (size_t n = 0; n < 2 * b; ++n) {
      const void* base = n < b ? args_.k_ptrs[n] : args_.v_ptrs[n - b];
      move(base);
      std::memcpy(&image_[lists + n * 8], &base, 8);
    }
    args_.k_ptrs = reinterpret_cast<const void* const*>(memory_ + lists);
    args_.v_ptrs = args_.k_ptrs + b;
  }
  move_all(problem);
  promise();
  for (const Part& part : parts_)
    if (part.source->bytes() > 0) std::memcpy(&image_[part.at], part.source->data(), part.source->bytes());
  upload();
}

DeviceProblem::~DeviceProblem() {
  driver_.cuMemFree(memory_);
  if (scratch_) driver_.cuMemFree(scratch_);
  if (state_) driver_.cuMemFree(state_);
}

size_t DeviceProblem::book(size_t bytes, size_t skew) {
  const size_t at = (end_ + kGap + 255) / 256 * 256 + skew;
  end_ = at + bytes;
  return at;
}

void DeviceProblem::place(const GuardedBuffer& buffer, size_t element) {
  parts_.push_back({&buffer, book(buffer.bytes(), placement_ == Placement::unaligned ? element : 0)});
}

template <class T>
void DeviceProblem::move(T*& pointer) const {
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

void DeviceProblem::move_all(const TestProblem&) {
  move(args_.q);
  move(args_.k);
  move(args_.v);
  move(args_.o);
  move(args_.lse);
  move(args_.cu_seqlens_q);
  move(args_.cu_seqlens_k);
  move(args_.seqused_q);
  move(args_.seqused_k);
  move(args_.leftpad_k);
  move(args_.cache_batch_idx);
  move(args_.block_table);
  move(args_.mask_kinds);
  move(args_.diagonal_offsets);
  move(args_.tree_sizes);
  move(args_.alibi);
  move(args_.bias);
  move(args_.mask);
  move(args_.tree_mask);
  move(args_.sink);
  move(args_.dropout_seed_ptr);
  move(args_.dropout_offset_ptr);
}

void DeviceProblem::promise() {
  const auto alignment = [](const void* base) -> int64_t {
    const uintptr_t low = reinterpret_cast<uintptr_t>(base) & 15;
    return low == 0 ? 16 : static_cast<int64_t>(low & (~low + 1));
  };
  desc_.q.alignment = alignment(args_.q);
  desc_.o.alignment = alignment(args_.o);
  if (desc_.kv_layout == FA_KV_POINTERS) {
    if (placement_ == Placement::unaligned) desc_.k.alignment = desc_.v.alignment = desc_.q.dtype == FA_DTYPE_F32 ? 4 : 2;
    return;
  }
  desc_.k.alignment = alignment(args_.k);
  desc_.v.alignment = alignment(args_.v);
}

void DeviceProblem::upload() { copy_to_device(memory_, image_.data(), image_.size()); }

void* DeviceProblem::state(size_t bytes) {
  if (state_) driver_.cuMemFree(state_);
  state_ = 0;
  if (bytes == 0) return nullptr;
  require(driver_.cuMemAlloc(&state_, bytes), "allocating state");
  const std::vector<unsigned char> filling(bytes, 0xFF);
  copy_to_device(state_, filling.data(), filling.size());
  return reinterpret_cast<void*>(state_);
}

const void* DeviceProblem::original(const void* device_pointer) const {
  return &image_[reinterpret_cast<uintptr_t>(device_pointer) - memory_];
}

void* DeviceProblem::scratch(size_t bytes) {
  if (scratch_) driver_.cuMemFree(scratch_);
  scratch_ = 0;
  scratch_bytes_ = bytes;
  if (bytes == 0) return nullptr;
  require(driver_.cuMemAlloc(&scratch_, bytes + 2 * kGap), "allocating scratch");
  const std::vector<unsigned char> filling(bytes + 2 * kGap, 0xFF);
  copy_to_device(scratch_, filling.data(), filling.size());
  return reinterpret_cast<void*>(scratch_ + kGap);
}

std::string DeviceProblem::download(TestProblem* problem) {
  std::vector<unsigned char> now(image_.size());
  require(driver_.cuMemcpyDtoH(now.data(), memory_, now.size()), "copying from the device");
  for (const Part& part : parts_) {
    const GuardedBuffer* const source = part.source;
    if (source != &problem->o_buffer() && source != &problem->lse_buffer()) continue;
    if (source->bytes() == 0) continue;
    std::memcpy(source->data(), &now[part.at], source->bytes());
    std::memcpy(&now[part.at], &image_[part.at], source->bytes());
  }
  for (size_t n = 0; n < now.size(); ++n)
    if (now[n] != image_[n]) return "device memory was written outside o and lse, byte " + std::to_string(n);
  if (scratch_ == 0) return "";
  std::vector<unsigned char> guards(scratch_bytes_ + 2 * kGap);
  require(driver_.cuMemcpyDtoH(guards.data(), scratch_, guards.size()), "copying scratch from the device");
  for (size_t n = 0; n < kGap; ++n)
    if (guards[n] != 0xFF || guards[kGap + scratch_bytes_ + n] != 0xFF) return "device memory beside the scratch was written";
  return "";
}

}  // namespace flash_attn::test
