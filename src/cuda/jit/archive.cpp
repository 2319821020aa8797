// See archive.h. Layout: head, entries by key, images as in kernel_image.cpp, each packed by itself, one after the other.
#include "cuda/jit/archive.h"

#include "cuda/jit/files.h"
#include "cuda/jit/headers.h"
#include "cuda/jit/pack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace flash_attn::cuda {
namespace {

constexpr char kMagic[6] = {'F', 'A', 'A', 'R', 'C', 'H'};
constexpr char kFormat[2] = {'0', '2'};
constexpr char kMaker[] = "flash-attn-lib " FLASH_ATTN_VERSION;

struct Head {
  char magic[6], format[2];
  uint64_t count;
  Digest sources;  // of all headers that kernels include
  char maker[32];
  Digest checksum;  // of the head with this field zero, and the entries
};
static_assert(sizeof(Head) == 112 && sizeof kMaker <= sizeof Head().maker);

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

Digest digest_of_sources() {
  Sha256 hash;
  for (int n = 0; n < kNumEmbeddedHeaders; ++n) {
    hash.add_field(kEmbeddedHeaders[n].name);
    hash.add_field(kEmbeddedHeaders[n].text);
  }
  return hash.finish();
}

Digest checksum_of(Head head, std::string_view entries) {
  head.checksum = {};
  Sha256 hash;
  hash.add({reinterpret_cast<const char*>(&head), sizeof head});
  hash.add(entries);
  return hash.finish();
}

std::string_view bytes_of(const std::vector<ArchiveEntry>& entries) {
  return {reinterpret_cast<const char*>(entries.data()), entries.size() * sizeof(ArchiveEntry)};
}

Status unusable(const std::string& path, const char* what) {
  return {FA_STATUS_COMPILE_ERROR, format_text("the kernel archive %s %s", path.c_str(), what)};
}

// Is the head that of an archive in this format? Says what the file is otherwise.
Status check_head(const std::string& path, const Head& head) {
  if (std::memcmp(head.magic, kMagic, sizeof kMagic) != 0) return unusable(path, "is no kernel archive");
  if (std::memcmp(head.format, kFormat, sizeof kFormat) == 0) return {};
  return unusable(path,
                  format_text("has format %.2s but this library reads %.2s: write it again with this version's flash-attn compile",
                              head.format, kFormat)
                      .c_str());
}

Status check_entries(const std::string& path, const std::vector<ArchiveEntry>& entries, uint64_t file_bytes) {
  for (const ArchiveEntry& entry : entries)
    if (entry.offset > file_bytes || entry.bytes > file_bytes - entry.offset)
      return unusable(path, "is damaged: it ends before its contents do");
  return {};
}

}  // namespace

Archive::~Archive() { ::close(fd_); }

Status Archive::open(const std::string& path, std::unique_ptr<Archive>* archive) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return unusable(path, (std::string("cannot be read: ") + error_text(errno)).c_str());
  std::unique_ptr<Archive> opened(new Archive(fd, path));
  struct stat facts;
  Head head;
  if (fstat(fd, &facts) != 0 || !S_ISREG(facts.st_mode) || !read_at(fd, 0, &head, sizeof head))
    return unusable(path, "is no kernel archive");
  FA_TRY(check_head(path, head));
  const uint64_t file_bytes = static_cast<uint64_t>(facts.st_size);
  if (head.count > (file_bytes - sizeof head) / sizeof(ArchiveEntry))
    return unusable(path, "is damaged: it ends before its list of contents does");
  std::vector<ArchiveEntry>& entries = opened->entries_;
  entries.resize(head.count);
  if (!read_at(fd, sizeof head, entries.data(), bytes_of(entries).size()) || checksum_of(head, bytes_of(entries)) != head.checksum)
    return unusable(path, "is damaged: its list of contents does not match its checksum");
  FA_TRY(check_entries(path, entries, file_bytes));
  opened->maker_.assign(head.maker, strnlen(head.maker, sizeof head.maker));
  opened->has_these_sources_ = head.sources == digest_of_sources();
  *archive = std::move(opened);
  return {};
}

ArchiveResult Archive::find(const Digest& key, KernelImage* image) const {
  const auto before = [](const ArchiveEntry& entry, const Digest& wanted) { return entry.key < wanted; };
  const auto at = std::lower_bound(entries_.begin(), entries_.end(), key, before);
  if (at == entries_.end() || at->key != key) return ArchiveResult::absent;
  std::string packed(at->bytes, '\0'), bytes;
  const bool is_whole = read_at(fd_, at->offset, packed.data(), packed.size()) && unpack_bytes(packed, at->image_bytes, &bytes) &&
                        decode_image(bytes, key, image);
  return is_whole ? ArchiveResult::found : ArchiveResult::damaged;
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
  std::memcpy(head.format, kFormat, sizeof kFormat);
  std::memcpy(head.maker, kMaker, sizeof kMaker);
  head.sources = digest_of_sources();
  head.count = sorted.size();
  std::vector<ArchiveEntry> entries;
  std::string contents;
  const uint64_t base = sizeof head + sorted.size() * sizeof(ArchiveEntry);
  for (const KernelImage* image : sorted) {
    const std::string bytes = encode_image(*image), packed = pack_bytes(bytes);
    entries.push_back({image->key, base + contents.size(), packed.size(), bytes.size()});
    contents += packed;
  }
  head.checksum = checksum_of(head, bytes_of(entries));
  const std::string file =
      std::string(reinterpret_cast<const char*>(&head), sizeof head) + std::string(bytes_of(entries)) + contents;
  if (const std::string reason = write_file(path, file); !reason.empty())
    return invalid("the archive %s could not be written: %s", path.c_str(), reason.c_str());
  return {};
}

}  // namespace flash_attn::cuda
