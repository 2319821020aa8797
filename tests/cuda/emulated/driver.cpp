// A stand-in for libcuda.so.1 (stand_in_driver.h), like an H100, on which launches run at once, with the code that the compiler
// stand-in beside it makes. Functions that the tests do not need succeed and do nothing.
#include "cuda/driver_types.h"
#include "emulated_map.h"
#include "tests/cuda/stand_in_driver.h"

#include <dlfcn.h>
#include <elf.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#define EXPORTED extern "C" __attribute__((visibility("default")))

using namespace flash_attn::cuda;
using namespace flash_attn::stand_in;

namespace {

using RunGrid = void (*)(unsigned threads, unsigned blocks, const void* params);

// Of each thread, as in the driver.
thread_local CUcontext current = nullptr;

CUresult succeed() { return kCudaSuccess; }
CUresult get_attribute(int* value, int attribute, CUdevice) {
  *value = device_attribute(attribute, 90);
  return kCudaSuccess;
}
CUresult get_current(CUcontext* context) {
  *context = current;
  return kCudaSuccess;
}
CUresult set_current(CUcontext context) {
  current = context;
  return kCudaSuccess;
}

CUresult load_data(CUlibrary* library, const void* data, int*, void**, unsigned, int*, void**, unsigned) {
  static int count = 0;
  const auto* header = static_cast<const Elf64_Ehdr*>(data);
  const size_t bytes = header->e_shoff + size_t{header->e_shentsize} * header->e_shnum;
  const std::string path = "/tmp/emulated-library-" + std::to_string(getpid()) + "-" + std::to_string(count++) + ".so";
  std::FILE* const file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return kCudaErrorInvalidImage;
  const bool is_written = std::fwrite(data, 1, bytes, file) == bytes;
  std::fclose(file);
  void* const opened = is_written ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
  unlink(path.c_str());
  *library = reinterpret_cast<CUlibrary>(opened);
  return opened ? kCudaSuccess : kCudaErrorInvalidImage;
}
CUresult get_kernel(CUkernel* kernel, CUlibrary library, const char*) {
  *kernel = reinterpret_cast<CUkernel>(dlsym(library, "run_grid"));
  return *kernel ? kCudaSuccess : kCudaErrorNotFound;
}
CUresult launch(const CUlaunchConfig* config, CUfunction function, void** params, void**) {
  static std::mutex mutex;  // a kernel's blocks share their globals
  const std::lock_guard<std::mutex> lock(mutex);
  reinterpret_cast<RunGrid>(function)(config->blockDimX, config->gridDimX, params[0]);
  return kCudaSuccess;
}

CUresult memory_info(size_t* free_bytes, size_t* all_bytes) {
  *free_bytes = *all_bytes = size_t{1} << 30;
  return kCudaSuccess;
}
CUresult fill(CUdeviceptr target, unsigned char value, size_t bytes, CUstream) {
  std::memset(reinterpret_cast<void*>(target), value, bytes);
  return kCudaSuccess;
}

CUresult encode_map(void* map, int, unsigned rank, void* base, const uint64_t* extents, const uint64_t* strides,
                    const uint32_t* box, const uint32_t*, int, int swizzle, int, int) {
  if (rank != 5 || swizzle != 3 || reinterpret_cast<uintptr_t>(base) % 16 != 0) return kCudaErrorInvalidValue;
  emulated::Map made = {emulated::kMapMagic, reinterpret_cast<uint64_t>(base), {}, {}, {}};
  for (unsigned n = 0; n < rank; ++n) {
    if (extents[n] == 0 || extents[n] > (uint64_t{1} << 32) || box[n] == 0 || box[n] > 256) return kCudaErrorInvalidValue;
    if (n > 0 && (strides[n - 1] % 16 != 0 || strides[n - 1] >= (uint64_t{1} << 40))) return kCudaErrorInvalidValue;
    made.extent[n] = extents[n];
    made.box[n] = static_cast<uint16_t>(box[n]);
    if (n > 0) made.stride[n - 1] = strides[n - 1];
  }
  std::memcpy(map, &made, sizeof(made));
  return kCudaSuccess;
}

CUresult replace_address(void* map, void* base) {
  if (reinterpret_cast<uintptr_t>(base) % 16 != 0) return kCudaErrorInvalidValue;
  emulated::Map made;
  std::memcpy(&made, map, sizeof(made));
  if (made.magic != emulated::kMapMagic) return kCudaErrorInvalidValue;
  made.base = reinterpret_cast<uint64_t>(base);
  std::memcpy(map, &made, sizeof(made));
  return kCudaSuccess;
}

struct Known {
  const char* name;
  void* address;
};
const Known kKnown[] = {
    {"cuDeviceGet", reinterpret_cast<void*>(device_get)},
    {"cuDeviceGetCount", reinterpret_cast<void*>(device_count)},
    {"cuDeviceGetAttribute", reinterpret_cast<void*>(get_attribute)},
    {"cuDevicePrimaryCtxRetain", reinterpret_cast<void*>(retain)},
    {"cuCtxGetCurrent", reinterpret_cast<void*>(get_current)},
    {"cuCtxSetCurrent", reinterpret_cast<void*>(set_current)},
    {"cuCtxPushCurrent", reinterpret_cast<void*>(set_current)},
    {"cuCtxGetDevice", reinterpret_cast<void*>(get_device)},
    {"cuStreamGetCtx", reinterpret_cast<void*>(stream_context)},
    {"cuStreamCreate", reinterpret_cast<void*>(stream_create)},
    {"cuStreamIsCapturing", reinterpret_cast<void*>(is_capturing)},
    {"cuGetErrorName", reinterpret_cast<void*>(error_text)},
    {"cuGetErrorString", reinterpret_cast<void*>(error_text)},
    {"cuLibraryLoadData", reinterpret_cast<void*>(load_data)},
    {"cuLibraryGetKernel", reinterpret_cast<void*>(get_kernel)},
    {"cuKernelGetFunction", reinterpret_cast<void*>(get_function)},
    {"cuLaunchKernelEx", reinterpret_cast<void*>(launch)},
    {"cuTensorMapEncodeTiled", reinterpret_cast<void*>(encode_map)},
    {"cuTensorMapReplaceAddress", reinterpret_cast<void*>(replace_address)},
    {"cuMemAlloc", reinterpret_cast<void*>(allocate)},
    {"cuMemFree", reinterpret_cast<void*>(release)},
    {"cuMemGetInfo", reinterpret_cast<void*>(memory_info)},
    {"cuMemsetD8Async", reinterpret_cast<void*>(fill)},
    {"cuMemcpyHtoD", reinterpret_cast<void*>(copy_in)},
    {"cuMemcpyDtoH", reinterpret_cast<void*>(copy_out)},
};

}  // namespace

EXPORTED CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return kCudaSuccess;
}

EXPORTED CUresult cuGetProcAddress_v2(const char* name, void** address, int, uint64_t, int* found) {
  *address = reinterpret_cast<void*>(succeed);
  for (const Known& known : kKnown)
    if (std::strcmp(known.name, name) == 0) *address = known.address;
  if (found) *found = 0;
  return kCudaSuccess;
}
