// The way from a configuration to a kernel that can be launched: memory, then archive, then disk, then compiler. Threads that ask
// for one kernel compile it once; different kernels compile side by side. What lies behind is in kernel_store.h (without a GPU) and
// here (loading).
#pragma once

#include "core/status.h"
#include "cuda/driver_types.h"
#include "cuda/jit/source.h"

namespace flash_attn::cuda {

// What a run may do when its kernel is not in memory.
enum class LoadPolicy {
  allowed,
  no_compile,  // FA_RUN_NO_COMPILE was given
  capturing,   // the stream is being captured
};

// A kernel in memory. Lives, at one address, as long as the process; belongs to no context.
struct LoadedKernel {
  CUkernel kernel = nullptr;
  std::string name;
  int registers = 0;
  int static_shared_bytes = 0;
  int local_bytes = 0;
};

// Whether a run on this stream may load kernels. `stream` belongs to the current context.
Status load_policy(CUstream stream, uint32_t run_flags, LoadPolicy* policy);

// The kernel of a configuration: its pointer may be kept. Under any policy but `allowed`, a kernel that is not in memory is an
// error.
template <class Config>
Status get_kernel(const KernelForm& form, const Config& config, int compute_capability, LoadPolicy policy,
                  const LoadedKernel** kernel);

// Makes a kernel ready in the current context, of the device `device`: loads it there and lets it use `dynamic_shared_bytes` of
// shared memory. For prepare; not during a capture. The function belongs to the current context.
Status load_into_context(const LoadedKernel& kernel, CUdevice device, int dynamic_shared_bytes, CUfunction* function);

namespace detail {

const LoadedKernel* find_loaded(const MemoryKey& key);
Status load_kernel(const MemoryKey& key, const KernelRequest& request, const LoadedKernel** kernel);
Status not_in_memory(const std::string& name, LoadPolicy policy);

}  // namespace detail

template <class Config>
Status get_kernel(const KernelForm& form, const Config& config, int compute_capability, LoadPolicy policy,
                  const LoadedKernel** kernel) {
  const MemoryKey key = memory_key(form, config, compute_capability);
  *kernel = detail::find_loaded(key);
  if (*kernel) return {};
  if (policy != LoadPolicy::allowed) return detail::not_in_memory(config_name(form, config), policy);
  return detail::load_kernel(key, kernel_request(form, config, compute_capability), kernel);
}

}  // namespace flash_attn::cuda
