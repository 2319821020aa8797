// Exported functions about the machine and the process: instruction sets, kernels, devices, threads, log.
#include "api/attention.h"
#include "api/guard.h"
#include "api/text.h"
#include "core/plan.h"
#include "core/registry.h"
#include "core/trace.h"

using flash_attn::Status;
using flash_attn::api::guarded;
using flash_attn::api::guarded_value;

const char* fa_cpu_isa_name(int32_t index) {
  return guarded_value<const char*>(nullptr, [&] { return index < 0 ? nullptr : flash_attn::cpu_isa_name(index); });
}

const char* fa_kernel_name(fa_device_type device_type, int32_t index) {
  const flash_attn::Backend* backend = flash_attn::find_backend(device_type);
  if (backend == nullptr || index < 0) return nullptr;
  for (const char* const* name = backend->kernels; *name != nullptr; ++name) {
    if (index-- == 0) return *name;
  }
  return nullptr;
}

fa_status fa_device_text(fa_device_type device_type, int32_t device_index, char* buffer, size_t capacity, size_t* length) {
  return guarded([&]() -> Status {
    FA_TRY(flash_attn::api::check_buffer(buffer, capacity));
    const flash_attn::Backend* backend = nullptr;
    FA_TRY(flash_attn::require_backend(device_type, &backend));
    std::string text;
    FA_TRY(backend->device_text(device_index, &text));
    flash_attn::api::put_text(text, buffer, capacity, length);
    return Status();
  });
}

fa_status fa_set_num_threads(int32_t num_threads) {
  return guarded([&]() -> Status {
    FA_TRY(flash_attn::set_cpu_threads(num_threads));
    flash_attn::api::forget_attention_plans();
    return Status();
  });
}

int32_t fa_get_num_threads(void) {
  return guarded_value<int32_t>(1, [] { return flash_attn::cpu_threads(); });
}

fa_status fa_set_parallel_for(fa_parallel_for_fn parallel_for, void* user, int32_t concurrency) {
  return guarded([&]() -> Status {
    FA_TRY(flash_attn::set_cpu_parallel_for(parallel_for, user, concurrency));
    flash_attn::api::forget_attention_plans();
    return Status();
  });
}

fa_status fa_set_log(fa_log_fn log, void* user, fa_log_level level) {
  return guarded([&]() -> Status {
    if (level < FA_LOG_ERROR || level > FA_LOG_DEBUG) {
      return flash_attn::invalid("level is %d but must be FA_LOG_ERROR (0), FA_LOG_INFO (1) or FA_LOG_DEBUG (2)", level);
    }
    flash_attn::set_log(log, user, level);
    return Status();
  });
}
