// See files.h. Bare system calls: no stream of the C or C++ library, which would bring tables of locales into the library.
#include "cuda/jit/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace flash_attn::cuda {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  // False if the system reports that earlier writing failed.
  bool close() {
    const int fd = fd_;
    fd_ = -1;
    return ::close(fd) == 0;
  }

 private:
  int fd_;
};

// The error of the first write that failed, else 0.
int write_all(int fd, std::string_view bytes) {
  off_t offset = 0;
  while (!bytes.empty()) {
    const ssize_t count = pwrite(fd, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count < 0 ? errno : ENOSPC;
    offset += count;
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return 0;
}

}  // namespace

std::string error_text(int error) {
  char buffer[128] = "";
  return strerror_r(error, buffer, sizeof buffer);  // the GNU form, which returns the text
}

std::string read_file(const std::string& path, std::string* bytes) {
  Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat facts;
  if (file.get() < 0 || fstat(file.get(), &facts) != 0) return error_text(errno);
  if (!S_ISREG(facts.st_mode)) return "not a regular file";
  bytes->resize(static_cast<size_t>(facts.st_size));
  size_t done = 0;
  while (done < bytes->size()) {
    const ssize_t count = pread(file.get(), bytes->data() + done, bytes->size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return error_text(errno);
    if (count == 0) break;  // it became shorter meanwhile
    done += static_cast<size_t>(count);
  }
  bytes->resize(done);
  return {};
}

std::string make_folders(const std::string& path) {
  for (size_t at = 1; at <= path.size(); ++at) {
    if (at < path.size() && path[at] != '/') continue;
    const std::string part = path.substr(0, at);
    if (mkdir(part.c_str(), 0700) != 0 && errno != EEXIST && !is_folder(part)) return error_text(errno);
  }
  return is_folder(path) ? std::string() : error_text(ENOTDIR);
}

std::string write_file(const std::string& path, std::string_view bytes) {
  static std::atomic<unsigned> counter{0};
  if (std::string failure = make_folders(parent_folder(path)); !failure.empty()) return failure;
  const std::string temporary =
      path + "." + std::to_string(getpid()) + "." + std::to_string(counter++) + std::string(kTemporarySuffix);
  Descriptor file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (file.get() < 0) return error_text(errno);
  int error = write_all(file.get(), bytes);
  if (!file.close() && error == 0) error = errno;
  if (error == 0 && rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return {};
  unlink(temporary.c_str());
  return error_text(error);
}

bool is_folder(const std::string& path) {
  struct stat facts;
  return stat(path.c_str(), &facts) == 0 && S_ISDIR(facts.st_mode);
}

bool is_file(const std::string& path) {
  struct stat facts;
  return stat(path.c_str(), &facts) == 0 && S_ISREG(facts.st_mode);
}

std::string parent_folder(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace flash_attn::cuda
