// See disk_cache.h. A file's modification time is when it was last used. Deleting a file that another process is reading is
// harmless: its bytes stay until that process closes it.
#include "cuda/jit/disk_cache.h"

#include "cuda/jit/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <vector>

namespace flash_attn::cuda {
namespace {

constexpr std::string_view kSuffix = ".kernel";
constexpr int64_t kAbandonedSeconds = 3600;  // a temporary file as old as this has no writer any more

struct File {
  std::string path;
  uint64_t bytes;
  int64_t nanoseconds;  // last use
};

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// The cache's files; temporary ones that nobody will finish are deleted on the way.
std::vector<File> list_files(const std::string& folder) {
  std::vector<File> files;
  const auto close = [](DIR* dir) { closedir(dir); };
  const std::unique_ptr<DIR, decltype(close)> dir(opendir(folder.c_str()), close);
  if (!dir) return files;
  while (const dirent* entry = readdir(dir.get())) {
    const std::string path = folder + "/" + entry->d_name;
    const bool is_temporary = ends_with(path, kTemporarySuffix);
    struct stat facts;
    if ((!is_temporary && !ends_with(path, kSuffix)) || stat(path.c_str(), &facts) != 0) continue;
    if (is_temporary && facts.st_mtim.tv_sec + kAbandonedSeconds < std::time(nullptr)) unlink(path.c_str());
    if (!is_temporary)
      files.push_back(
          {path, static_cast<uint64_t>(facts.st_size), int64_t{facts.st_mtim.tv_sec} * 1000000000 + facts.st_mtim.tv_nsec});
  }
  return files;
}

}  // namespace

std::string DiskCache::path_of(const Digest& key) const { return folder_ + "/" + hex_text(key) + std::string(kSuffix); }

bool DiskCache::find(const Digest& key, KernelImage* image) const {
  if (folder_.empty()) return false;
  const std::string path = path_of(key);
  std::string bytes;
  if (!read_file(path, &bytes).empty()) return false;
  if (!decode_image(bytes, key, image)) {
    unlink(path.c_str());
    return false;
  }
  utimensat(AT_FDCWD, path.c_str(), nullptr, 0);
  return true;
}

std::string DiskCache::keep(const KernelImage& image) const {
  if (folder_.empty()) return {};
  std::string reason = write_file(path_of(image.key), encode_image(image));
  if (reason.empty()) delete_oldest();
  return reason;
}

void DiskCache::delete_oldest() const {
  std::vector<File> files = list_files(folder_);
  uint64_t total = 0;
  for (const File& file : files) total += file.bytes;
  if (total <= limit_bytes_) return;
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.nanoseconds < b.nanoseconds; });
  const uint64_t target = limit_bytes_ - limit_bytes_ / 8;  // some room, or each new kernel would delete one
  for (const File& file : files) {
    if (total <= target) return;
    if (unlink(file.path.c_str()) == 0) total -= file.bytes;
  }
}

}  // namespace flash_attn::cuda
