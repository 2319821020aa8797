// A stand-in for libcuda.so.1, for tests of how the library meets a driver. FAKE_CUDA names its behaviour: "old", "missing" (a
// function), "no_gpu", "capturing", "bad_image"; anything else is a driver with one GPU on which nothing ever runs.
#include "cuda/driver_types.h"

#include <cstdlib>
#include <cstring>

using namespace flash_attn::cuda;

namespace {

int loaded = 0;

bool behaves(const char* name) {
  const char* behaviour = std::getenv("FAKE_CUDA");
  return behaviour && std::strcmp(behaviour, name) == 0;
}

CUresult succeed() { return kCudaSuccess; }
CUresult init(unsigned int) { return behaves("no_gpu") ? kCudaErrorNoDevice : kCudaSuccess; }
CUresult error_name(CUresult result, const char** name) {
  *name = result == kCudaErrorInvalidImage ? "CUDA_ERROR_INVALID_IMAGE" : "CUDA_ERROR_FAKE";
  return kCudaSuccess;
}
CUresult error_string(CUresult, const char** text) {
  *text = "a fake error";
  return kCudaSuccess;
}
CUresult load_data(CUlibrary* library, const void*, int*, void**, unsigned int, int*, void**, unsigned int) {
  if (behaves("bad_image")) return kCudaErrorInvalidImage;
  ++loaded;
  *library = reinterpret_cast<CUlibrary>(uintptr_t{0x1000});
  return kCudaSuccess;
}
CUresult get_kernel(CUkernel* kernel, CUlibrary, const char* name) {
  if (std::strcmp(name, "toy") != 0) return kCudaErrorNotFound;
  *kernel = reinterpret_cast<CUkernel>(uintptr_t{0x2000});
  return kCudaSuccess;
}
CUresult get_function(CUfunction* function, CUkernel kernel) {
  *function = reinterpret_cast<CUfunction>(kernel);
  return kCudaSuccess;
}
CUresult set_attribute(int attribute, int value, CUkernel, CUdevice) {
  return attribute == kFunctionMaxDynamicSharedSizeBytes && value <= 232448 ? kCudaSuccess : kCudaErrorInvalidValue;
}
CUresult is_capturing(CUstream, int* status) {
  *status = behaves("capturing") ? kCaptureActive : kCaptureNone;
  return kCudaSuccess;
}

void* function(const char* name) {
  struct Known {
    const char* name;
    void* address;
  };
  const Known known[] = {
      {"cuInit", reinterpret_cast<void*>(init)},
      {"cuGetErrorName", reinterpret_cast<void*>(error_name)},
      {"cuGetErrorString", reinterpret_cast<void*>(error_string)},
      {"cuLibraryLoadData", reinterpret_cast<void*>(load_data)},
      {"cuLibraryGetKernel", reinterpret_cast<void*>(get_kernel)},
      {"cuKernelGetFunction", reinterpret_cast<void*>(get_function)},
      {"cuKernelSetAttribute", reinterpret_cast<void*>(set_attribute)},
      {"cuStreamIsCapturing", reinterpret_cast<void*>(is_capturing)},
  };
  for (const Known& entry : known)
    if (std::strcmp(entry.name, name) == 0) return entry.address;
  return reinterpret_cast<void*>(succeed);
}

}  // namespace

extern "C" {

int fake_cuda_loaded() { return loaded; }

CUresult cuDriverGetVersion(int* version) {
  *version = behaves("old") ? 11040 : 13000;
  return kCudaSuccess;
}

CUresult cuGetProcAddress_v2(const char* name, void** address, int version, uint64_t, int* found) {
  const bool lacks = behaves("missing") && std::strcmp(name, "cuTensorMapEncodeTiled") == 0;
  *address = version == 12000 && !lacks ? function(name) : nullptr;
  if (found) *found = *address ? 0 : 1;
  return kCudaSuccess;
}
}
