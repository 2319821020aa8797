// The way from a configuration to a kernel that can be launched: memory, else what kernel_store.h finds, loaded. Threads that ask
// for one kernel compile it once; different kernels compile side by side.
#pragma once

#include "core/status.h"
#include "cuda/driver_types.h"
#include "cuda/jit/kernel_store.h"
#include "cuda/jit/source.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>

namespace flash_attn::cuda {

// What a run may do when its kernel is not in memory.
enum class LoadPolicy {
  allowed,
  no_compile,  // FA_RUN_NO_COMPILE was given
  capturing,   // the stream is being captured
};

// A kernel in memory. Lives, at one address, as long as its cache; belongs to no context.
struct LoadedKernel {
  CUkernel kernel = nullptr;
  std::string name;
  int registers = 0;
  int static_shared_bytes = 0;
  int local_bytes = 0;

  // Was it made ready (load_into_context) in this context of the device? Then plans made later need not do it again. Of each
  // device the last context is remembered, and of devices past the last none.
  bool is_ready(CUdevice device, CUcontext context) const {
    return remembers(device) && ready_in[device].load(std::memory_order_acquire) == context;
  }
  void set_ready(CUdevice device, CUcontext context) const {
    if (remembers(device)) ready_in[device].store(context, std::memory_order_release);
  }

  static constexpr int kMostDevices = 32;
  static bool remembers(CUdevice device) { return device >= 0 && device < kMostDevices; }
  mutable std::atomic<CUcontext> ready_in[kMostDevices] = {};
};

class KernelCache {
 public:
  using Load = Status (*)(const KernelRequest& request, const KernelImage& image, LoadedKernel* kernel);

  KernelCache(StoreSettings settings, Load loader) : store_(std::move(settings)), load_(loader) {}

  // The kernel in memory, or null. Neither allocates nor waits for a kernel that another thread is compiling.
  const LoadedKernel* find(const MemoryKey& key) const;
  // Finds, compiles and loads. A failure is not remembered: the next call tries again.
  Status load(const MemoryKey& key, const KernelRequest& request, const LoadedKernel** kernel);

 private:
  struct Slot {
    std::mutex mutex;  // held while this kernel is made
    LoadedKernel kernel;
  };
  struct Hash {
    size_t operator()(const MemoryKey& key) const { return key.hash(); }
  };

  KernelStore store_;
  Load load_;
  mutable std::shared_mutex ready_mutex_;
  std::unordered_map<MemoryKey, const LoadedKernel*, Hash> ready_;
  std::mutex slots_mutex_;
  std::unordered_map<MemoryKey, std::unique_ptr<Slot>, Hash> slots_;  // of kernels that were ever asked for
};

// The process's cache. Needs a driver; what is there stays until the process ends.
Status get_kernel_cache(KernelCache** cache);

// Whether a run on this stream, of the current context, may load kernels.
Status load_policy(CUstream stream, uint32_t run_flags, LoadPolicy* policy);

Status not_in_memory(const std::string& name, LoadPolicy policy);

// The kernel of a configuration if it is in memory, else null.
template <class Config>
const LoadedKernel* find_kernel(const KernelForm& form, const Config& config, int compute_capability) {
  KernelCache* cache = nullptr;
  return get_kernel_cache(&cache).ok() ? cache->find(memory_key(form, config, compute_capability)) : nullptr;
}

// The kernel of a configuration; its address may be kept. Under any policy but `allowed`, a kernel that is not in memory is an
// error.
template <class Config>
Status get_kernel(const KernelForm& form, const Config& config, int compute_capability, LoadPolicy policy,
                  const LoadedKernel** kernel) {
  KernelCache* cache = nullptr;
  FA_TRY(get_kernel_cache(&cache));
  const MemoryKey key = memory_key(form, config, compute_capability);
  *kernel = cache->find(key);
  if (*kernel) return {};
  if (policy != LoadPolicy::allowed) return not_in_memory(config_name(form, config), policy);
  return cache->load(key, kernel_request(form, config, compute_capability), kernel);
}

// Makes a kernel ready in the current context, which is of `device`: loads it there and lets it use `dynamic_shared_bytes` of
// shared memory. For prepare; not during a capture. The function belongs to that context.
Status load_into_context(const LoadedKernel& kernel, CUdevice device, int dynamic_shared_bytes, CUfunction* function);

}  // namespace flash_attn::cuda
