// Where compiled kernels come from: an archive, else the user's cache on disk, else the compiler. Works without a GPU; what is in
// memory and loaded is kernel_cache.h's.
#pragma once

#include "core/status.h"
#include "cuda/jit/archive.h"
#include "cuda/jit/compile.h"
#include "cuda/jit/disk_cache.h"

#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace flash_attn::cuda {

struct StoreSettings {
  std::string archive;             // a file, or a folder with one "<arch>.kernels" per architecture; empty: none
  bool archive_is_chosen = false;  // by the user, so that one that cannot be read is an error
  bool uses_named_archive = true;  // looks into use_archive's first
  std::string cache_folder;        // empty: nothing is kept on disk
  uint64_t cache_limit_bytes = uint64_t{512} << 20;
  std::string dump_folder;  // keeps source, log and code of every kernel, compiled with line numbers; empty: none
  Status (*nvrtc)(const Nvrtc**) = get_nvrtc;
  int driver_version = 0;  // kernels from a compiler of a newer major version are passed over; 0: any
};

// FLASH_ATTN_ARCHIVE, FLASH_ATTN_CACHE_DIR, FLASH_ATTN_CACHE_MB, FLASH_ATTN_DUMP, and where they are not set the installed archive
// and the user's cache folder.
StoreSettings settings_from_environment();

// The archive that fa_archive_use names, process-wide; empty: none. An archive that cannot be used is an error.
Status use_archive(const std::string& path);
std::string named_archive();

enum class ImageSource { archive, disk, compiler };

class KernelStore {
 public:
  explicit KernelStore(StoreSettings settings)
      : settings_(std::move(settings)), disk_(settings_.cache_folder, settings_.cache_limit_bytes) {}

  // May be called by many threads at once, also for one request (which is then compiled by each).
  Status find(const KernelRequest& request, KernelImage* image, ImageSource* source);

  const StoreSettings& settings() const { return settings_; }

 private:
  // Of a file or folder; null where there is none for the architecture. `chosen_by` is who named it, null: the installation.
  Status open_archive(const std::string& base, const char* chosen_by, const std::string& arch, const Archive** archive);
  // What the archives have, and where they were looked for in vain, in words.
  Status look_in_archives(const KernelRequest& request, KernelImage* image, bool* is_found, std::string* misses);
  bool take_from(const Archive& archive, const KernelRequest& request, KernelImage* image, std::string* misses);
  Status compile_and_keep(const Nvrtc& nvrtc, const KernelRequest& request, const Digest& key, KernelImage* image);
  void dump(const KernelRequest& request, const KernelImage& image, const std::string& log) const;

  StoreSettings settings_;
  DiskCache disk_;
  std::mutex archives_mutex_;
  std::map<std::string, std::unique_ptr<Archive>> archives_;  // by path; null for one that is not there
};

// The key of a request in archives: its text, all headers it reaches, the architecture and the options.
Digest request_key(const KernelRequest& request, bool with_lines);
// The key on disk, where different compilers' code may lie side by side.
Digest request_key(const KernelRequest& request, bool with_lines, int nvrtc_version);

// Compiles with the process's compiler, past every cache. For tests and the writing of archives.
Status compile_only(const KernelRequest& request, CompileReport* report);
KernelImage make_image(const KernelRequest& request, const Digest& key, int nvrtc_version, CompileReport&& report);

}  // namespace flash_attn::cuda
