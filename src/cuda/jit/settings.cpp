// What the environment and the program say of caches and archives (kernel_store.h), and where an installation keeps its archive:
// found from the place of this library, so that an unpacked package works wherever it lies.
#include "cuda/jit/files.h"
#include "cuda/jit/kernel_store.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>

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

struct NamedArchive {
  std::mutex mutex;
  std::string path;
};
NamedArchive& the_named_archive() {
  static auto* const named = new NamedArchive;  // never destroyed: runs may outlive static destruction
  return *named;
}

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
  NamedArchive& named = the_named_archive();
  const std::lock_guard<std::mutex> lock(named.mutex);
  named.path = path;
  return {};
}

std::string named_archive() {
  NamedArchive& named = the_named_archive();
  const std::lock_guard<std::mutex> lock(named.mutex);
  return named.path;
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
