// See device.h. Attributes are asked of the driver once per device and kept.
#include "cuda/device.h"

#include "cuda/driver.h"
#include "cuda/known_devices.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>

namespace flash_attn::cuda {
namespace {

constexpr int kOldestCapability = 80;

Status current_or_first(const Driver& driver, int* index) {
  CUcontext context = nullptr;
  *index = 0;
  if (driver.cuCtxGetCurrent(&context) != kCudaSuccess || context == nullptr) return {};
  CUdevice device = 0;
  FA_CUDA_TRY(driver, cuCtxGetDevice(&device), "asking for the current context's device");
  *index = device;  // a CUdevice is its ordinal
  return {};
}

Status read_attributes(const Driver& driver, int index, DeviceInfo* info) {
  CUdevice device = 0;
  int count = 0;
  FA_CUDA_TRY(driver, cuDeviceGetCount(&count), "counting GPUs");
  if (index < 0 || index >= count) return invalid("device_index is %d but must be -1 or 0 to %d", index, count - 1);
  FA_CUDA_TRY(driver, cuDeviceGet(&device, index), "finding the GPU");
  int major = 0, minor = 0, l2 = 0, memory_clock_khz = 0, memory_bits = 0;
  const struct {
    int attribute;
    int* value;
  } wanted[] = {{kComputeCapabilityMajor, &major},
                {kComputeCapabilityMinor, &minor},
                {kMultiprocessorCount, &info->multiprocessors},
                {kMaxSharedMemoryPerBlockOptin, &info->shared_bytes},
                {kMaxSharedMemoryPerMultiprocessor, &info->shared_bytes_per_sm},
                {kL2CacheSize, &l2},
                {kClockRateKhz, &info->clock_khz},
                {kMemoryClockRateKhz, &memory_clock_khz},
                {kGlobalMemoryBusWidth, &memory_bits}};
  for (const auto& [attribute, value] : wanted)
    FA_CUDA_TRY(driver, cuDeviceGetAttribute(value, attribute, device), "asking for a GPU's attributes");
  info->index = index;
  info->compute_capability = 10 * major + minor;
  info->l2_bytes = l2;
  info->memory_bandwidth = 2000ll * memory_clock_khz * (memory_bits / 8);  // two transfers a clock
  if (info->compute_capability >= kOldestCapability) return {};
  return unsupported("GPU %d has compute capability %d.%d but 8.0 or newer is needed", index, major, minor);
}

Status get_assumed(const std::string& arch, int index, DeviceInfo* info) {
  const std::vector<DeviceInfo> known = known_devices(arch);
  if (known.empty())
    return invalid("FLASH_ATTN_CUDA_ASSUME is \"%s\" but must be one of: %s", arch.c_str(), known_architectures().c_str());
  *info = known.front();
  info->index = std::max(index, 0);
  return {};
}

Status get_attributes(int index, DeviceInfo* info) {
  if (const char* const assumed = std::getenv("FLASH_ATTN_CUDA_ASSUME"); assumed != nullptr && *assumed != 0)
    return get_assumed(assumed, index, info);
  static std::mutex mutex;
  static std::map<int, DeviceInfo>* const known = new std::map<int, DeviceInfo>;
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  if (index == -1) FA_TRY(current_or_first(*driver, &index));
  const std::lock_guard<std::mutex> lock(mutex);
  if (const auto at = known->find(index); at != known->end()) {
    *info = at->second;
    return {};
  }
  FA_TRY(read_attributes(*driver, index, info));
  (*known)[index] = *info;
  return {};
}

}  // namespace

Status get_device(int index, DeviceInfo* info) {
  FA_TRY(get_attributes(index, info));
  const char* const kilobytes = std::getenv("FLASH_ATTN_CUDA_SHARED_KB");
  if (kilobytes == nullptr || *kilobytes == 0) return {};
  const int bytes = std::atoi(kilobytes) * 1024;
  if (bytes < 1024) return invalid("FLASH_ATTN_CUDA_SHARED_KB is \"%s\" but must be a number of kilobytes", kilobytes);
  info->shared_bytes = std::min(info->shared_bytes, bytes);
  info->shared_bytes_per_sm = std::min(info->shared_bytes_per_sm, bytes + 1024);
  return {};
}

Status device_text(int index, std::string* text) {
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  DeviceInfo info;
  FA_TRY(get_device(index, &info));
  char name[128] = {};
  size_t memory = 0;
  FA_CUDA_TRY(*driver, cuDeviceGetName(name, sizeof(name) - 1, info.index), "asking for the GPU's name");
  FA_CUDA_TRY(*driver, cuDeviceTotalMem(&memory, info.index), "asking for the GPU's memory");
  *text = format_text(
      "model: %s\ncompute capability: %d.%d\nmultiprocessors: %d\nmemory: %zu MiB\nshared memory: %d KiB a block, %d KiB a "
      "multiprocessor\nL2 cache: %lld MiB\ndriver: CUDA %d.%d\n",
      name, info.compute_capability / 10, info.compute_capability % 10, info.multiprocessors, memory >> 20,
      info.shared_bytes / 1024, info.shared_bytes_per_sm / 1024, info.l2_bytes >> 20, driver->version / 1000,
      driver->version % 1000 / 10);
  return {};
}

}  // namespace flash_attn::cuda
