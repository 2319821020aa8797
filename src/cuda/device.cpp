// See device.h. Attributes are asked of the driver once per device and kept, and the environment is read once: every plan asks.
#include "cuda/device.h"

#include "cuda/driver.h"
#include "cuda/known_devices.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace flash_attn::cuda {
namespace {

constexpr int kOldestCapability = 80;
constexpr int kLeastSharedBytes = 1024;  // a kilobyte; also what the driver keeps of each block's

Status current_or_first(const Driver& driver, int* index) {
  CUdevice device = 0;
  const CUresult result = driver.cuCtxGetDevice(&device);
  // No context is current, or the driver is not usable here (the child of a fork): planning needs neither.
  const bool is_without = result == kCudaErrorInvalidContext || result == kCudaErrorNotInitialized;
  *index = result == kCudaSuccess ? device : 0;  // a CUdevice is its ordinal
  return is_without ? Status() : driver_status(driver, result, "asking for the current context's device");
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

// What the environment says of planning.
struct Environment {
  Status status;
  bool assumes = false;
  DeviceInfo assumed;
  int shared_bytes = 0;  // 0: no limit
};

Environment read_environment() {
  Environment found;
  const char* const arch = std::getenv("FLASH_ATTN_CUDA_ASSUME");
  const char* const kilobytes = std::getenv("FLASH_ATTN_CUDA_SHARED_KB");
  if (arch != nullptr && *arch != 0) {
    found.assumes = true;
    const std::vector<DeviceInfo> known = known_devices(arch);
    if (known.empty())
      found.status = invalid("FLASH_ATTN_CUDA_ASSUME is \"%s\" but must be one of: %s", arch, known_architectures().c_str());
    else
      found.assumed = known.front();
  }
  if (kilobytes != nullptr && *kilobytes != 0) {
    found.shared_bytes = std::atoi(kilobytes) * kLeastSharedBytes;
    if (found.shared_bytes < kLeastSharedBytes)
      found.status = invalid("FLASH_ATTN_CUDA_SHARED_KB is \"%s\" but must be a number of kilobytes", kilobytes);
  }
  return found;
}

const Environment& environment() {
  static const Environment* const found = new Environment(read_environment());  // never destroyed, as the devices kept below
  return *found;
}

constexpr int kNoLimitSet = -1;
std::atomic<int> set_limit{kNoLimitSet};  // by limit_shared_memory

Status get_attributes(int index, DeviceInfo* info) {
  constexpr int kMostKept = 64;
  static std::atomic<const DeviceInfo*> kept[kMostKept];
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  if (index == -1) FA_TRY(current_or_first(*driver, &index));
  if (index < 0 || index >= kMostKept) return read_attributes(*driver, index, info);
  const DeviceInfo* known = kept[index].load(std::memory_order_acquire);
  if (known == nullptr) {
    auto fresh = std::make_unique<DeviceInfo>();
    FA_TRY(read_attributes(*driver, index, fresh.get()));
    // Two threads may both have asked: the first answer stays.
    known = kept[index].compare_exchange_strong(known, fresh.get()) ? fresh.release() : kept[index].load();
  }
  *info = *known;
  return {};
}

}  // namespace

void limit_shared_memory(int bytes) { set_limit.store(bytes); }

Status get_device(int index, DeviceInfo* info) {
  const Environment& given = environment();
  FA_TRY(given.status);
  if (given.assumes) {
    *info = given.assumed;
    info->index = std::max(index, 0);
  } else {
    FA_TRY(get_attributes(index, info));
  }
  const int set = set_limit.load(std::memory_order_relaxed), limit = set == kNoLimitSet ? given.shared_bytes : set;
  if (limit == 0) return {};
  info->shared_bytes = std::min(info->shared_bytes, limit);
  info->shared_bytes_per_sm = std::min(info->shared_bytes_per_sm, limit + kLeastSharedBytes);
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
