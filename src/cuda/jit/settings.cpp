// What the environment and the program say of caches and archives (kernel_store.h), and where an installation keeps its archive:
// found from the place of this library, so that an unpacked package works wherever it lies.
#include "core/settings_mutex.h"
#include "cuda/jit/files.h"
#include "cuda/jit/kernel_store.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <utility>

namespace flash_attn::cuda {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// <folder of this library>/<way to the data>/kernels, or a folder flash-attn-kernels beside the library; empty if neither is there.
std::string installed_archive() {
  static const char anchor = 0;
  Dl_info where;
  if (dladdr(&anchor, &where) == 0 || !where.dli_fname) return {};
  for (const char* folder : {"/" FLASH_ATTN_DATA_FROM_LIB "/kernels", "/flash-attn-kernels"})
    if (std::string path = parent_folder(where.dli_fname) + folder; is_folder(path)) return path;
  return {};
}

constinit std::string* archive_named = nullptr;  // under settings_mutex; null: none. Runs may outlive static destruction

std::string user_cache_folder() {
  if (std::getenv("FLASH_ATTN_CACHE_DIR")) return environment("FLASH_ATTN_CACHE_DIR");  // empty: no cache
  if (const std::string base = environment("XDG_CACHE_HOME"); !base.empty() && base[0] == '/') return base + "/flash-attn-lib";
  if (const std::string home = environment("HOME"); !home.empty()) return home + "/.cache/flash-attn-lib";
  return {};
}

}  // namespace

Status use_archive(const std::string& path) {
  if (!path.empty() && !is_folder(path)) {
    std::unique_ptr<Archive> archive;
    FA_TRY(Archive::open(path, &archive));
  }
  auto named = path.empty() ? nullptr : std::make_unique<std::string>(path);
  const std::lock_guard<std::mutex> lock(settings_mutex());
  delete std::exchange(archive_named, named.release());
  return {};
}

std::string named_archive() {
  const std::lock_guard<std::mutex> lock(settings_mutex());
  return archive_named != nullptr ? *archive_named : std::string();
}

StoreSettings settings_from_environment() {
  StoreSettings settings;
  settings.archive_is_chosen = std::getenv("FLASH_ATTN_ARCHIVE") != nullptr;
  settings.archive = settings.archive_is_chosen ? environment("FLASH_ATTN_ARCHIVE") : installed_archive();
  settings.cache_folder = user_cache_folder();
  if (const std::string megabytes = environment("FLASH_ATTN_CACHE_MB"); !megabytes.empty())
    settings.cache_limit_bytes = std::strtoull(megabytes.c_str(), nullptr, 10) << 20;
  settings.dump_folder = environment("FLASH_ATTN_DUMP");
  return settings;
}

}  // namespace flash_attn::cuda
