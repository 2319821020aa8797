// See driver.h. The library handle and the table live as long as the process: a driver cannot be unloaded safely.
#include "cuda/driver.h"

#include <dlfcn.h>

namespace flash_attn::cuda {
namespace {

constexpr int kOldestVersion = 12000;  // cuLibrary*, tensor maps and cuLaunchKernelEx are all there

using GetProcAddress = CUresult (*)(const char*, void**, int, uint64_t, int*);

struct Opened {
  Driver driver;
  Status status;
};

std::string version_text(int version) { return format_text("%d.%d", version / 1000, version % 1000 / 10); }

Status open_failure(const char* reason) {
  return {
      FA_STATUS_DEVICE_ERROR,
      format_text("the NVIDIA driver library libcuda.so.1 could not be opened (%s); CUDA tensors need an NVIDIA GPU with driver "
                  "525 or newer, in a container also its run-time hook",
                  reason)};
}

Status resolve(void* library, Driver* driver) {
  const auto get_version = reinterpret_cast<CUresult (*)(int*)>(dlsym(library, "cuDriverGetVersion"));
  if (!get_version || get_version(&driver->version) != kCudaSuccess) return open_failure("it has no cuDriverGetVersion");
  const auto get_address = reinterpret_cast<GetProcAddress>(dlsym(library, "cuGetProcAddress_v2"));
  if (driver->version < kOldestVersion || !get_address)
    return {FA_STATUS_DEVICE_ERROR,
            format_text("the NVIDIA driver serves CUDA %s, but %s or newer is needed: update the driver to 525 or newer",
                        version_text(driver->version).c_str(), version_text(kOldestVersion).c_str())};
  const char* missing = nullptr;
  const auto find = [&](const char* name) {
    void* address = nullptr;
    int found = 0;
    if (get_address(name, &address, kOldestVersion, 0, &found) != kCudaSuccess) address = nullptr;
    if (!address) missing = name;
    return address;
  };
#define FA_CUDA_FIND(name, parameters) driver->name = reinterpret_cast<decltype(driver->name)>(find(#name));
  FA_CUDA_FUNCTIONS(FA_CUDA_FIND)
#undef FA_CUDA_FIND
  if (missing)
    return {FA_STATUS_DEVICE_ERROR,
            format_text("the NVIDIA driver (CUDA %s) lacks %s: update the driver", version_text(driver->version).c_str(), missing)};
  return {};
}

Status initialise(const Driver& driver) {
  const CUresult result = driver.cuInit(0);
  if (result == kCudaErrorNoDevice)
    return {FA_STATUS_DEVICE_ERROR, "the NVIDIA driver finds no GPU: is one visible to this process (CUDA_VISIBLE_DEVICES)?"};
  return driver_status(driver, result, "initialising the NVIDIA driver");
}

Opened open_driver() {
  Opened opened;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();
    opened.status = open_failure(reason ? reason : "no reason given");
    return opened;
  }
  opened.status = resolve(library, &opened.driver);
  if (opened.status.ok()) opened.status = initialise(opened.driver);
  return opened;
}

const Opened& opened_driver() {
  static const Opened* const opened = new Opened(open_driver());  // never destroyed: runs may outlive static destruction
  return *opened;
}

}  // namespace

Status get_driver(const Driver** driver) {
  const Opened& opened = opened_driver();
  *driver = opened.status.ok() ? &opened.driver : nullptr;
  return opened.status;
}

int driver_version() {
  const Opened& opened = opened_driver();
  return opened.status.ok() ? opened.driver.version : 0;
}

Status driver_status(const Driver& driver, CUresult result, const char* action) {
  if (result == kCudaSuccess) return {};
  const char* name = nullptr;
  const char* text = nullptr;
  if (driver.cuGetErrorName(result, &name) != kCudaSuccess || !name) name = "an error unknown to the driver";
  if (driver.cuGetErrorString(result, &text) != kCudaSuccess || !text) text = "no description";
  return {FA_STATUS_DEVICE_ERROR, format_text("%s failed: %s (%s, %d)", action, name, text, result)};
}

}  // namespace flash_attn::cuda
