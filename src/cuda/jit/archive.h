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
  uint64_t offset, bytes;
};

class Archive {
 public:
  // Reads the list of contents. A file that is there but no archive, or damaged in its list, is an error.
  static Status open(const std::string& path, std::unique_ptr<Archive>* archive);

  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;
  ~Archive();

  // False if there is none with this key or it is damaged.
  bool find(const Digest& key, KernelImage* image) const;
  size_t size() const { return entries_.size(); }

 private:
  explicit Archive(int fd) : fd_(fd) {}

  int fd_;
  std::vector<ArchiveEntry> entries_;  // by key
};

// Writes an archive of these images; of equal keys the first counts.
Status write_archive(const std::string& path, const std::vector<KernelImage>& images);

}  // namespace flash_attn::cuda
