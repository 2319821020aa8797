// See launch.h. Kernels are launched by their context-free handle: the stream says where.
#include "cuda/launch.h"

namespace flash_attn::cuda {
namespace {

// Makes a context current for a while, if it is not.
class CurrentContext {
 public:
  explicit CurrentContext(const Driver& driver) : driver_(driver) {}
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;
  ~CurrentContext() {
    CUcontext popped = nullptr;
    if (is_pushed_) driver_.cuCtxPopCurrent(&popped);
  }

  // Null: whatever is current.
  Status enter(CUcontext context) {
    CUcontext current = nullptr;
    FA_CUDA_TRY(driver_, cuCtxGetCurrent(&current), "asking for the current context");
    if (context == nullptr && current == nullptr)
      return invalid("context is NULL but no CUDA context is current on this thread: give one, or make one current");
    if (context == nullptr || context == current) return {};
    FA_CUDA_TRY(driver_, cuCtxPushCurrent(context), "making the context current");
    is_pushed_ = true;
    return {};
  }

 private:
  const Driver& driver_;
  bool is_pushed_ = false;
};

}  // namespace

void PlannedKernel::keep(const LoadedKernel* kernel, CUcontext context) const {
  kernel_.store(kernel, std::memory_order_release);
  context_.store(context, std::memory_order_release);
}

Status PlannedKernel::load_into_current(const Driver& driver) const {
  CUdevice device = 0;
  CUcontext context = nullptr;
  FA_CUDA_TRY(driver, cuCtxGetCurrent(&context), "asking for the current context");
  FA_CUDA_TRY(driver, cuCtxGetDevice(&device), "asking for the context's device");
  DeviceInfo info;
  FA_TRY(get_device(device, &info));
  if (info.compute_capability != compute_capability_ || info.shared_bytes < shared_bytes_)
    return invalid("the stream or context is of GPU %d but the plan was made for GPU %d, which is of another kind", device,
                   device_index_);
  const LoadedKernel* kernel = nullptr;
  FA_TRY(load(&kernel));
  CUfunction function = nullptr;
  FA_TRY(load_into_context(*kernel, device, shared_bytes_, &function));
  kernel->set_ready(device, context);
  keep(kernel, context);
  return {};
}

Status PlannedKernel::prepare(CUcontext context) const {
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  CurrentContext current(*driver);
  FA_TRY(current.enter(context));
  return load_into_current(*driver);
}

Status PlannedKernel::make_ready(const Driver& driver, CUcontext context, CUstream stream, uint32_t run_flags) const {
  // What another plan made ready here is so for this one too: the kernel's configuration says how much shared memory it takes.
  if (const LoadedKernel* const kernel = find(); kernel != nullptr && kernel->is_ready(device_index_, context)) {
    keep(kernel, context);
    return {};
  }
  CurrentContext current(driver);
  FA_TRY(current.enter(context));
  LoadPolicy policy = LoadPolicy::allowed;
  FA_TRY(load_policy(stream, run_flags, &policy));
  if (policy != LoadPolicy::allowed) return not_in_memory(name(), policy);
  return load_into_current(driver);
}

Status PlannedKernel::launch(CUstream stream, uint32_t run_flags, const LaunchShape& shape, const void* params) const {
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  CUcontext context = nullptr;
  FA_CUDA_TRY(*driver, cuStreamGetCtx(stream, &context), "asking for the stream's context");
  if (context != context_.load(std::memory_order_acquire)) FA_TRY(make_ready(*driver, context, stream, run_flags));
  const LoadedKernel* const kernel = kernel_.load(std::memory_order_acquire);
  CUlaunchConfig config = {};
  config.gridDimX = shape.blocks;
  config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = shape.threads;
  config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = shape.shared_bytes;
  config.hStream = stream;
  void* arguments[] = {const_cast<void*>(params)};
  const CUresult result = driver->cuLaunchKernelEx(&config, reinterpret_cast<CUfunction>(kernel->kernel), arguments, nullptr);
  return result == kCudaSuccess ? Status() : driver_status(*driver, result, ("launching " + name()).c_str());
}

}  // namespace flash_attn::cuda
