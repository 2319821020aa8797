// The list of rooms in this build, and the way from the ABI to a room's process-wide settings. The only file of core that names a
// room.
#include "core/registry.h"

#include "core/backend.h"
#include "cpu/device.h"
#include "cpu/thread_pool.h"

namespace flash_attn {

namespace cpu {
extern const Backend kCpuBackend;
}  // namespace cpu
namespace cuda {
extern const Backend kCudaBackend;
}  // namespace cuda

namespace {

constexpr const Backend* kBackends[] = {&cpu::kCpuBackend, &cuda::kCudaBackend};

}  // namespace

const Backend* find_backend(fa_device_type device_type) {
  for (const Backend* backend : kBackends) {
    if (backend->device_type == device_type) return backend;
  }
  return nullptr;
}

const char* cpu_isa_name(int index) { return cpu::available_isa_name(index); }

Status set_cpu_threads(int num_threads) {
  if (num_threads < 0) return invalid("num_threads is %d but must be 0 (the default) or more", num_threads);
  return cpu::set_num_threads(num_threads);
}

int cpu_threads() { return cpu::default_num_threads(); }

Status set_cpu_parallel_for(fa_parallel_for_fn parallel_for, void* user, int concurrency) {
  if (parallel_for != nullptr && concurrency < 1) return invalid("concurrency is %d but must be 1 or more", concurrency);
  return cpu::set_parallel_for(parallel_for, user, concurrency);
}

}  // namespace flash_attn
