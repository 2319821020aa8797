// A file of many kernel images, written once and then only read: what packages carry so that a machine needs no compiler.
#pragma once

#include "core/status.h"
#include "cuda/jit/kernel_image.h"

#include <memory>
#include <string>
#include <vector>

namespace flash_attn::cuda {

struct ArchiveEntry {
  Digest key;
  uint64_t offset, bytes;  // in the file
  uint64_t image_bytes;    // unpacked
};

enum class ArchiveResult { found, absent, damaged };

class Archive {
 public:
  // Reads the list of contents. A file that is there but no archive of this format, or damaged in its list, is an error.
  static Status open(const std::string& path, std::unique_ptr<Archive>* archive);

  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;
  ~Archive();

  ArchiveResult find(const Digest& key, KernelImage* image) const;
  size_t size() const { return entries_.size(); }
  const std::string& path() const { return path_; }
  // Whose kernels are in it: "flash-attn-lib 0.1.0" and the sources of the kernels.
  const std::string& maker() const { return maker_; }
  bool has_these_sources() const { return has_these_sources_; }

 private:
  Archive(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  int fd_;
  std::string path_, maker_;
  bool has_these_sources_ = false;
  std::vector<ArchiveEntry> entries_;  // by key
};

// Writes an archive of these images; of equal keys the first counts.
Status write_archive(const std::string& path, const std::vector<KernelImage>& images);

}  // namespace flash_attn::cuda
