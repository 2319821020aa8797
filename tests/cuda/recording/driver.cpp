// A stand-in for libcuda.so.1 that writes down every call: one GPU whose memory is the host's and on which nothing ever runs. For
// tests of what the library asks of a driver, and when. RECORDED_CAPABILITY is its compute capability, 90 if not set.
#include "cuda/driver.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#define EXPORTED extern "C" __attribute__((visibility("default")))

using namespace flash_attn::cuda;

namespace {

enum Index : int {
#define FA_INDEX(name, parameters) index_##name,
  FA_CUDA_FUNCTIONS(FA_INDEX)
#undef FA_INDEX
      kFunctions
};

constexpr const char* kNames[] = {
#define FA_NAME(name, parameters) #name,
    FA_CUDA_FUNCTIONS(FA_NAME)
#undef FA_NAME
};

std::atomic<long> counts[kFunctions];
void* answers[kFunctions];  // what a function does; null: succeed

template <int index, class... Parameters>
auto recorder(CUresult (*)(Parameters...)) {
  return +[](Parameters... parameters) -> CUresult {
    ++counts[index];
    const auto answer = reinterpret_cast<CUresult (*)(Parameters...)>(answers[index]);
    return answer ? answer(parameters...) : kCudaSuccess;
  };
}

CUcontext the_context() { return reinterpret_cast<CUcontext>(uintptr_t{0x1000}); }

int capability() {
  const char* const text = std::getenv("RECORDED_CAPABILITY");
  return text ? std::atoi(text) : 90;
}

CUresult device_count(int* count) {
  *count = 1;
  return kCudaSuccess;
}
CUresult device_get(CUdevice* device, int index) {
  *device = index;
  return index == 0 ? kCudaSuccess : kCudaErrorInvalidValue;
}
CUresult device_attribute(int* value, int attribute, CUdevice) {
  const bool is_small = capability() % 10 != 0 || capability() >= 120;
  switch (attribute) {
    case kComputeCapabilityMajor:
      *value = capability() / 10;
      break;
    case kComputeCapabilityMinor:
      *value = capability() % 10;
      break;
    case kMultiprocessorCount:
      *value = 132;
      break;
    case kMaxSharedMemoryPerBlockOptin:
      *value = (is_small ? 99 : capability() == 80 ? 163 : 227) << 10;
      break;
    case kMaxSharedMemoryPerMultiprocessor:
      *value = (is_small ? 100 : capability() == 80 ? 164 : 228) << 10;
      break;
    case kL2CacheSize:
      *value = 50 << 20;
      break;
    default:
      *value = 0;
  }
  return kCudaSuccess;
}
CUresult retain(CUcontext* context, CUdevice) {
  *context = the_context();
  return kCudaSuccess;
}
CUresult get_current(CUcontext* context) {
  *context = the_context();
  return kCudaSuccess;
}
CUresult get_device(CUdevice* device) {
  *device = 0;
  return kCudaSuccess;
}
CUresult stream_context(CUstream, CUcontext* context) {
  *context = the_context();
  return kCudaSuccess;
}
CUresult stream_create(CUstream* stream, unsigned) {
  *stream = reinterpret_cast<CUstream>(uintptr_t{0x2000});
  return kCudaSuccess;
}
CUresult is_capturing(CUstream, int* status) {
  *status = kCaptureNone;
  return kCudaSuccess;
}
CUresult error_text(CUresult, const char** text) {
  *text = "an error of the recording driver";
  return kCudaSuccess;
}
CUresult load_data(CUlibrary* library, const void* data, int*, void**, unsigned, int*, void**, unsigned) {
  *library = reinterpret_cast<CUlibrary>(uintptr_t{0x3000});
  return std::memcmp(data,
                     "\x7f"
                     "ELF",
                     4) == 0
             ? kCudaSuccess
             : kCudaErrorInvalidImage;
}
CUresult get_kernel(CUkernel* kernel, CUlibrary, const char*) {
  *kernel = reinterpret_cast<CUkernel>(uintptr_t{0x4000});
  return kCudaSuccess;
}
CUresult get_function(CUfunction* function, CUkernel kernel) {
  *function = reinterpret_cast<CUfunction>(kernel);
  return kCudaSuccess;
}
CUresult allocate(CUdeviceptr* pointer, size_t bytes) {
  *pointer = reinterpret_cast<CUdeviceptr>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
  return *pointer ? kCudaSuccess : kCudaErrorOutOfMemory;
}
CUresult release(CUdeviceptr pointer) {
  std::free(reinterpret_cast<void*>(pointer));
  return kCudaSuccess;
}
CUresult copy_in(CUdeviceptr target, const void* source, size_t bytes) {
  std::memcpy(reinterpret_cast<void*>(target), source, bytes);
  return kCudaSuccess;
}
CUresult copy_out(void* target, CUdeviceptr source, size_t bytes) {
  std::memcpy(target, reinterpret_cast<const void*>(source), bytes);
  return kCudaSuccess;
}

void set_answers() {
#define FA_ANSWER(name, function) answers[index_##name] = reinterpret_cast<void*>(function)
  FA_ANSWER(cuDeviceGetCount, device_count);
  FA_ANSWER(cuDeviceGet, device_get);
  FA_ANSWER(cuDeviceGetAttribute, device_attribute);
  FA_ANSWER(cuDevicePrimaryCtxRetain, retain);
  FA_ANSWER(cuCtxGetCurrent, get_current);
  FA_ANSWER(cuCtxGetDevice, get_device);
  FA_ANSWER(cuStreamGetCtx, stream_context);
  FA_ANSWER(cuStreamCreate, stream_create);
  FA_ANSWER(cuStreamIsCapturing, is_capturing);
  FA_ANSWER(cuGetErrorName, error_text);
  FA_ANSWER(cuGetErrorString, error_text);
  FA_ANSWER(cuLibraryLoadData, load_data);
  FA_ANSWER(cuLibraryGetKernel, get_kernel);
  FA_ANSWER(cuKernelGetFunction, get_function);
  FA_ANSWER(cuMemAlloc, allocate);
  FA_ANSWER(cuMemFree, release);
  FA_ANSWER(cuMemcpyHtoD, copy_in);
  FA_ANSWER(cuMemcpyDtoH, copy_out);
#undef FA_ANSWER
}

}  // namespace

// For the test: forgets what was called; how often the n-th function of the table was called since, -1 past the last.
EXPORTED void recording_clear() {
  for (std::atomic<long>& count : counts) count = 0;
}
EXPORTED long recording_count(int n, const char** name) {
  if (n < 0 || n >= kFunctions) return -1;
  *name = kNames[n];
  return counts[n];
}

EXPORTED CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return kCudaSuccess;
}

EXPORTED CUresult cuGetProcAddress_v2(const char* name, void** address, int, uint64_t, int* found) {
  set_answers();
  *address = nullptr;
#define FA_FIND(function, parameters)    \
  if (std::strcmp(name, #function) == 0) \
    *address = reinterpret_cast<void*>(recorder<index_##function>(static_cast<CUresult(*) parameters>(nullptr)));
  FA_CUDA_FUNCTIONS(FA_FIND)
#undef FA_FIND
  if (found) *found = *address ? 0 : 1;
  return *address ? kCudaSuccess : kCudaErrorNotFound;
}
