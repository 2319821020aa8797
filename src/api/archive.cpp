// Exported functions around archives of compiled kernels: unpack the caller's descriptions, call the room that has such kernels.
#include "api/guard.h"
#include "api/structs.h"
#include "core/backend.h"
#include "core/plan.h"

#include <vector>

using flash_attn::Status;
using flash_attn::api::guarded;

namespace {

Status gather_problems(const fa_attention_desc* const* descs, int64_t count, std::vector<flash_attn::Problem>* problems) {
  if (descs == nullptr) return flash_attn::invalid("descs is NULL");
  if (count < 1) return flash_attn::invalid("count is %lld but must be 1 or more", static_cast<long long>(count));
  problems->resize(static_cast<size_t>(count));
  for (int64_t n = 0; n < count; ++n) {
    fa_attention_desc storage;
    const fa_attention_desc* usable = nullptr;
    Status status = flash_attn::api::adopt(descs[n], &storage, &usable);
    if (status.ok() && usable->device_type != FA_DEVICE_CUDA)
      status = flash_attn::invalid("device_type is %d but only kernels of FA_DEVICE_CUDA (1) are compiled", usable->device_type);
    if (status.ok()) status = flash_attn::make_problem(*usable, &(*problems)[static_cast<size_t>(n)]);
    if (!status.ok())
      return {status.code(), flash_attn::format_text("descs[%lld]: ", static_cast<long long>(n)) + status.message()};
  }
  return {};
}

Status require_compiling_room(const flash_attn::Backend** backend) {
  FA_TRY(flash_attn::require_backend(FA_DEVICE_CUDA, backend));
  if ((*backend)->write_archive != nullptr && (*backend)->use_archive != nullptr) return {};
  return flash_attn::unsupported("this build compiles no kernels at run time");
}

}  // namespace

fa_status fa_archive_write(const char* path, const char* architectures, const fa_attention_desc* const* descs, int64_t count,
                           int32_t num_threads, int64_t* kernels, int64_t* unserved) {
  return guarded([&]() -> Status {
    if (path == nullptr || *path == '\0') return flash_attn::invalid("path is %s", path == nullptr ? "NULL" : "empty");
    if (architectures == nullptr) return flash_attn::invalid("architectures is NULL");
    if (num_threads < 0) return flash_attn::invalid("num_threads is %d but must be 0 (all processors) or more", num_threads);
    std::vector<flash_attn::Problem> problems;
    FA_TRY(gather_problems(descs, count, &problems));
    const flash_attn::Backend* backend = nullptr;
    FA_TRY(require_compiling_room(&backend));
    flash_attn::ArchiveReport report;
    FA_TRY(backend->write_archive(problems, {path, architectures, num_threads}, &report));
    if (kernels != nullptr) *kernels = report.kernels;
    if (unserved != nullptr) *unserved = report.unserved;
    return Status();
  });
}

fa_status fa_archive_use(const char* path) {
  return guarded([&]() -> Status {
    if (path != nullptr && *path == '\0') return flash_attn::invalid("path is empty; NULL stands for no archive");
    const flash_attn::Backend* backend = nullptr;
    FA_TRY(require_compiling_room(&backend));
    return backend->use_archive(path == nullptr ? "" : path);
  });
}
