// See gpu.h. Functions are found by name in the version that CUDA 12.0 gave them.
#include "gpu.h"

#include "errors.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace flash_attn::tool {
namespace {

using Address = unsigned long long;
constexpr int kVersion = 12000;

void* open_driver() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw Failure("--device asks for CUDA, which needs the NVIDIA driver, but libcuda.so.1 could not be opened");
  return library;
}

}  // namespace

struct Gpu::Driver {
  int (*cuInit)(unsigned) = nullptr;
  int (*cuDeviceGet)(int*, int) = nullptr;
  int (*cuDevicePrimaryCtxRetain)(void**, int) = nullptr;
  int (*cuDevicePrimaryCtxRelease)(int) = nullptr;
  int (*cuCtxSetCurrent)(void*) = nullptr;
  int (*cuCtxSynchronize)() = nullptr;
  int (*cuMemAlloc)(Address*, size_t) = nullptr;
  int (*cuMemFree)(Address) = nullptr;
  int (*cuMemcpyHtoD)(Address, const void*, size_t) = nullptr;
  int (*cuMemcpyDtoH)(void*, Address, size_t) = nullptr;
  int (*cuGetErrorString)(int, const char**) = nullptr;

  int device = 0;
  void* context = nullptr;
  std::vector<Address> memory;

  Driver() {
    using Find = int (*)(const char*, void**, int, uint64_t, int*);
    const auto find = reinterpret_cast<Find>(dlsym(open_driver(), "cuGetProcAddress_v2"));
    if (find == nullptr) throw Failure("--device asks for CUDA, which needs an NVIDIA driver of version 525 or newer");
    const auto get = [find](const char* name, auto* function) {
      void* address = nullptr;
      int found = 0;
      if (find(name, &address, kVersion, 0, &found) != 0 || address == nullptr)
        throw Failure(std::string("the NVIDIA driver lacks ") + name + "; update it");
      *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(address);
    };
    get("cuInit", &cuInit);
    get("cuDeviceGet", &cuDeviceGet);
    get("cuDevicePrimaryCtxRetain", &cuDevicePrimaryCtxRetain);
    get("cuDevicePrimaryCtxRelease", &cuDevicePrimaryCtxRelease);
    get("cuCtxSetCurrent", &cuCtxSetCurrent);
    get("cuCtxSynchronize", &cuCtxSynchronize);
    get("cuMemAlloc", &cuMemAlloc);
    get("cuMemFree", &cuMemFree);
    get("cuMemcpyHtoD", &cuMemcpyHtoD);
    get("cuMemcpyDtoH", &cuMemcpyDtoH);
    get("cuGetErrorString", &cuGetErrorString);
  }

  void require(int result, const char* action) const {
    if (result == 0) return;
    const char* text = nullptr;
    if (cuGetErrorString(result, &text) != 0 || text == nullptr) text = "no description";
    throw Failure(std::string(action) + " with CUDA failed: " + text + " (" + std::to_string(result) + ")");
  }
};

Gpu::Gpu(int index) : driver_(std::make_unique<Driver>()) {
  driver_->require(driver_->cuInit(0), "starting");
  driver_->require(driver_->cuDeviceGet(&driver_->device, std::max(index, 0)), "finding device");
  driver_->require(driver_->cuDevicePrimaryCtxRetain(&driver_->context, driver_->device), "opening a context");
  driver_->require(driver_->cuCtxSetCurrent(driver_->context), "entering the context");
}

Gpu::~Gpu() {
  for (const Address address : driver_->memory) driver_->cuMemFree(address);
  driver_->cuDevicePrimaryCtxRelease(driver_->device);
}

void* Gpu::allocate(size_t bytes) {
  Address address = 0;
  driver_->require(driver_->cuMemAlloc(&address, std::max<size_t>(bytes, 1)), "allocating memory");
  driver_->memory.push_back(address);
  return reinterpret_cast<void*>(address);
}

void* Gpu::copy_in(const void* host, size_t bytes) {
  void* const device = allocate(bytes);
  if (bytes > 0) driver_->require(driver_->cuMemcpyHtoD(reinterpret_cast<Address>(device), host, bytes), "copying to memory");
  return device;
}

void Gpu::wait() const { driver_->require(driver_->cuCtxSynchronize(), "running"); }

void* Gpu::context() const { return driver_->context; }

void Gpu::copy_out(void* host, const void* device, size_t bytes) {
  wait();
  if (bytes > 0) driver_->require(driver_->cuMemcpyDtoH(host, reinterpret_cast<Address>(device), bytes), "copying from memory");
}

}  // namespace flash_attn::tool
