// File access by POSIX calls, so that every failure can be told with the system's own reason.
#include "files.h"

#include "errors.h"
#include "npy.h"
#include "safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace flash_attn::tool {
namespace {

constexpr std::string_view kSuffix = ".safetensors";

[[noreturn]] void fail(const std::string& path, const std::string& what) { throw FileError(path + ": " + what); }
[[noreturn]] void fail_errno(const std::string& path, const char* verb) {
  fail(path, std::string("cannot ") + verb + " (" + std::strerror(errno) + ")");
}

class InputFile {
 public:
  explicit InputFile(const std::string& path) : path_(path), descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail_errno(path_, "open");
    struct stat status {};
    if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
      close(descriptor_);
      fail(path_, "is not a regular file");
    }
    size_ = static_cast<uint64_t>(status.st_size);
  }
  ~InputFile() { close(descriptor_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  uint64_t size() const { return size_; }

  void read(uint64_t offset, std::byte* target, uint64_t bytes) const {
    while (bytes > 0) {
      const ssize_t got = pread(descriptor_, target, bytes, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail_errno(path_, "read");
      if (got == 0) fail(path_, "became shorter while being read");
      offset += static_cast<uint64_t>(got);
      target += got;
      bytes -= static_cast<uint64_t>(got);
    }
  }

  std::vector<std::byte> read_all() const {
    std::vector<std::byte> content(size_);
    read(0, content.data(), size_);
    return content;
  }

 private:
  std::string path_;
  int descriptor_;
  uint64_t size_ = 0;
};

Array load_safetensors(const std::string& path, const std::string& name) {
  const InputFile file(path);
  std::vector<std::byte> first(std::min<uint64_t>(8, file.size()));
  file.read(0, first.data(), first.size());
  std::vector<std::byte> header(safetensors_header_length(first, file.size()));
  file.read(8, header.data(), header.size());
  const TensorPlace place = find_tensor(header, file.size(), name);
  Array array(place.element, place.shape);
  file.read(place.begin, array.data(), place.end - place.begin);
  return array;
}

// A temporary file beside its target, removed unless committed.
class Draft {
 public:
  Draft(std::string target, const std::vector<std::byte>& content) : target_(std::move(target)), name_(target_ + ".XXXXXX") {
    const int descriptor = mkstemp(name_.data());
    if (descriptor < 0) fail_errno(target_, "create");
    const bool is_complete = write_all(descriptor, content) && fchmod(descriptor, creation_mode()) == 0;
    if (close(descriptor) != 0 || !is_complete) {
      const int reason = errno;
      unlink(name_.c_str());
      errno = reason;
      fail_errno(target_, "write");
    }
  }
  Draft(Draft&& other) noexcept : target_(std::move(other.target_)), name_(std::exchange(other.name_, {})) {}
  Draft(const Draft&) = delete;
  ~Draft() {
    if (!name_.empty()) unlink(name_.c_str());
  }

  void commit() {
    if (rename(name_.c_str(), target_.c_str()) != 0) fail_errno(target_, "write");
    name_.clear();
  }

 private:
  static mode_t creation_mode() {
    const mode_t mask = umask(0);
    umask(mask);
    return 0666 & ~mask;
  }
  static bool write_all(int descriptor, const std::vector<std::byte>& content) {
    size_t done = 0;
    while (done < content.size()) {
      const ssize_t wrote = write(descriptor, content.data() + done, content.size() - done);
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return false;
      done += static_cast<size_t>(wrote);
    }
    return true;
  }

  std::string target_;
  std::string name_;
};

}  // namespace

Array load_array(const std::string& path) {
  const size_t split = path.find(std::string(kSuffix) + ":");
  const std::string file = split == std::string::npos ? path : path.substr(0, split + kSuffix.size());
  try {
    if (split != std::string::npos) return load_safetensors(file, path.substr(split + kSuffix.size() + 1));
    if (path.ends_with(kSuffix)) throw FileError("needs the tensor's name, as in " + path + ":name");
    return parse_npy(InputFile(path).read_all());
  } catch (const FileError& error) {
    const std::string message = error.what();
    if (message.starts_with(file + ": ")) throw;
    fail(file, message);
  } catch (const std::bad_alloc&) {
    fail(file, "does not fit in memory");
  }
}

std::string read_text(const std::string& path) {
  const std::vector<std::byte> content = InputFile(path).read_all();
  return {reinterpret_cast<const char*>(content.data()), content.size()};
}

void write_files(const std::vector<std::pair<std::string, std::vector<std::byte>>>& files) {
  std::vector<Draft> drafts;
  drafts.reserve(files.size());
  for (const auto& [path, content] : files) drafts.emplace_back(path, content);
  for (Draft& draft : drafts) draft.commit();
}

void write_text(const std::string& path, const std::string& text) {
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  write_files({{path, {bytes, bytes + text.size()}}});
}

}  // namespace flash_attn::tool
