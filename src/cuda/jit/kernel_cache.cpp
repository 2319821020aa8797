// See kernel_cache.h. Kernels are loaded as libraries that belong to no context; a context takes them in when they are first used
// there.
#include "cuda/jit/kernel_cache.h"

#include "cuda/driver.h"

namespace flash_attn::cuda {
namespace {

// What a driver says when code is for another architecture or from a compiler that is too new for it.
bool is_image_error(CUresult result) {
  return result == kCudaErrorInvalidImage || result == kCudaErrorNoBinaryForGpu || result == kCudaErrorUnsupportedPtxVersion;
}

Status load_failure(const Driver& driver, CUresult result, const KernelRequest& request, const KernelImage& image) {
  const Status status = driver_status(driver, result, ("loading " + request.name).c_str());
  std::string message = status.message();
  if (is_image_error(result))
    message += format_text("; it was compiled for %s by NVRTC %d.%d, the driver serves CUDA %d.%d", request.arch.c_str(),
                           image.compiler / 1000, image.compiler % 1000 / 10, driver.version / 1000, driver.version % 1000 / 10);
  return {is_image_error(result) ? FA_STATUS_COMPILE_ERROR : status.code(), message};
}

Status load_with_driver(const KernelRequest& request, const KernelImage& image, LoadedKernel* kernel) {
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  CUlibrary library = nullptr;
  CUresult result = driver->cuLibraryLoadData(&library, image.cubin.data(), nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (result == kCudaSuccess) {
    result = driver->cuLibraryGetKernel(&kernel->kernel, library, request.entry.c_str());
    if (result != kCudaSuccess) driver->cuLibraryUnload(library);
  }
  return result == kCudaSuccess ? Status() : load_failure(*driver, result, request, image);
}

}  // namespace

const LoadedKernel* KernelCache::find(const MemoryKey& key) const {
  const std::shared_lock<std::shared_mutex> lock(ready_mutex_);
  const auto at = ready_.find(key);
  return at == ready_.end() ? nullptr : at->second;
}

Status KernelCache::load(const MemoryKey& key, const KernelRequest& request, const LoadedKernel** kernel) {
  if (!key.fits()) return {FA_STATUS_INTERNAL, request.name + " has more fields than a memory key holds"};
  Slot* slot = nullptr;
  {
    const std::lock_guard<std::mutex> lock(slots_mutex_);
    std::unique_ptr<Slot>& owner = slots_[key];
    if (!owner) owner = std::make_unique<Slot>();
    slot = owner.get();
  }
  const std::lock_guard<std::mutex> making(slot->mutex);
  *kernel = find(key);
  if (*kernel) return {};  // another thread made it meanwhile
  KernelImage image;
  ImageSource source;
  FA_TRY(store_.find(request, &image, &source));
  LoadedKernel& loaded = slot->kernel;  // until it is among those ready, nobody else sees it
  loaded.name = request.name;
  loaded.registers = image.registers;
  loaded.static_shared_bytes = image.static_shared_bytes;
  loaded.local_bytes = image.stack_bytes;
  FA_TRY(load_(request, image, &loaded));
  const std::unique_lock<std::shared_mutex> lock(ready_mutex_);
  ready_[key] = &loaded;
  *kernel = &loaded;
  return {};
}

Status get_kernel_cache(KernelCache** cache) {
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  static KernelCache* const process_cache = [](int version) {
    StoreSettings settings = settings_from_environment();
    settings.driver_version = version;
    return new KernelCache(std::move(settings), load_with_driver);  // never destroyed: runs may outlive static destruction
  }(driver->version);
  *cache = process_cache;
  return {};
}

Status load_policy(CUstream stream, uint32_t run_flags, LoadPolicy* policy) {
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  int capture = kCaptureNone;
  FA_CUDA_TRY(*driver, cuStreamIsCapturing(stream, &capture), "asking whether the stream is being captured");
  *policy = capture != kCaptureNone         ? LoadPolicy::capturing
            : run_flags & FA_RUN_NO_COMPILE ? LoadPolicy::no_compile
                                            : LoadPolicy::allowed;
  return {};
}

Status not_in_memory(const std::string& name, LoadPolicy policy) {
  const char* why = policy == LoadPolicy::capturing ? "the stream is being captured" : "run_flags has FA_RUN_NO_COMPILE";
  return {FA_STATUS_COMPILE_ERROR,
          format_text("%s is not loaded and may not be now, because %s: call fa_prepare before", name.c_str(), why)};
}

Status load_into_context(const LoadedKernel& kernel, CUdevice device, int dynamic_shared_bytes, CUfunction* function) {
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  if (dynamic_shared_bytes > 0)
    FA_CUDA_TRY(*driver, cuKernelSetAttribute(kFunctionMaxDynamicSharedSizeBytes, dynamic_shared_bytes, kernel.kernel, device),
                ("giving " + kernel.name + " " + std::to_string(dynamic_shared_bytes) + " bytes of shared memory").c_str());
  FA_CUDA_TRY(*driver, cuKernelGetFunction(function, kernel.kernel), ("loading " + kernel.name + " into the context").c_str());
  return {};
}

}  // namespace flash_attn::cuda
