// A stand-in for libcuda.so.1 (stand_in_driver.h) that writes down every call and on which nothing ever runs. For
// tests of what the library asks of a driver, and when. RECORDED_CAPABILITY is its compute capability, 90 if not set.
#include "cuda/driver.h"
#include "tests/cuda/stand_in_driver.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#define EXPORTED extern "C" __attribute__((visibility("default")))

using namespace flash_attn::cuda;
using namespace flash_attn::stand_in;

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

int capability() {
  const char* const text = std::getenv("RECORDED_CAPABILITY");
  return text ? std::atoi(text) : 90;
}

CUresult get_attribute(int* value, int attribute, CUdevice) {
  *value = device_attribute(attribute, capability());
  return kCudaSuccess;
}
CUresult get_current(CUcontext* context) {
  *context = the_context();
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

void set_answers() {
#define FA_ANSWER(name, function) answers[index_##name] = reinterpret_cast<void*>(function)
  FA_ANSWER(cuDeviceGetCount, device_count);
  FA_ANSWER(cuDeviceGet, device_get);
  FA_ANSWER(cuDeviceGetAttribute, get_attribute);
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
