// See archive.h. Layout: head, entries by key, images as in kernel_image.cpp, one after the other.
#include "cuda/jit/archive.h"

#include "cuda/jit/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace flash_attn::cuda {
namespace {

constexpr char kMagic[8] = {'F', 'A', 'A', 'R', 'C', 'H', '0', '1'};

struct Head {
  char magic[8];
  uint64_t count;
  Digest checksum;  // of the entries
};

bool read_at(int fd, uint64_t offset, void* bytes, size_t size) {
  char* to = static_cast<char*>(bytes);
  while (size > 0) {
    const ssize_t count = pread(fd, to, size, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    to += count;
    offset += static_cast<uint64_t>(count);
    size -= static_cast<size_t>(count);
  }
  return true;
}

Status damaged(const std::string& path) {
  return {FA_STATUS_COMPILE_ERROR, format_text("the kernel archive %s is damaged or no archive of this version", path.c_str())};
}

}  // namespace

Archive::~Archive() { ::close(fd_); }

Status Archive::open(const std::string& path, std::unique_ptr<Archive>* archive) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {FA_STATUS_COMPILE_ERROR, format_text("the kernel archive %s cannot be read", path.c_str())};
  std::unique_ptr<Archive> opened(new Archive(fd));
  struct stat facts;
  Head head;
  if (fstat(fd, &facts) != 0 || !read_at(fd, 0, &head, sizeof head) || std::memcmp(head.magic, kMagic, sizeof kMagic) != 0)
    return damaged(path);
  const uint64_t file_bytes = static_cast<uint64_t>(facts.st_size);
  if (head.count > (file_bytes - sizeof head) / sizeof(ArchiveEntry)) return damaged(path);
  std::vector<ArchiveEntry>& entries = opened->entries_;
  entries.resize(head.count);
  const std::string_view list(reinterpret_cast<const char*>(entries.data()), head.count * sizeof(ArchiveEntry));
  if (!read_at(fd, sizeof head, entries.data(), list.size()) || sha256(list) != head.checksum) return damaged(path);
  for (const ArchiveEntry& entry : entries)
    if (entry.offset > file_bytes || entry.bytes > file_bytes - entry.offset) return damaged(path);
  *archive = std::move(opened);
  return {};
}

bool Archive::find(const Digest& key, KernelImage* image) const {
  const auto before = [](const ArchiveEntry& entry, const Digest& wanted) { return entry.key < wanted; };
  const auto at = std::lower_bound(entries_.begin(), entries_.end(), key, before);
  if (at == entries_.end() || at->key != key) return false;
  std::string bytes(at->bytes, '\0');
  return read_at(fd_, at->offset, bytes.data(), bytes.size()) && decode_image(bytes, key, image);
}

Status write_archive(const std::string& path, const std::vector<KernelImage>& images) {
  std::vector<const KernelImage*> sorted;
  sorted.reserve(images.size());
  for (const KernelImage& image : images) sorted.push_back(&image);
  std::stable_sort(sorted.begin(), sorted.end(), [](const KernelImage* a, const KernelImage* b) { return a->key < b->key; });
  const auto same = [](const KernelImage* a, const KernelImage* b) { return a->key == b->key; };
  sorted.erase(std::unique(sorted.begin(), sorted.end(), same), sorted.end());

  Head head = {};
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  head.count = sorted.size();
  std::vector<ArchiveEntry> entries;
  std::string contents;
  const uint64_t base = sizeof head + sorted.size() * sizeof(ArchiveEntry);
  for (const KernelImage* image : sorted) {
    const std::string bytes = encode_image(*image);
    entries.push_back({image->key, base + contents.size(), bytes.size()});
    contents += bytes;
  }
  const std::string_view list(reinterpret_cast<const char*>(entries.data()), entries.size() * sizeof(ArchiveEntry));
  head.checksum = sha256(list);
  const std::string file = std::string(reinterpret_cast<const char*>(&head), sizeof head) + std::string(list) + contents;
  if (const std::string reason = write_file(path, file); !reason.empty())
    return invalid("the archive %s could not be written: %s", path.c_str(), reason.c_str());
  return {};
}

}  // namespace flash_attn::cuda
