// The compiled kernels of a user, one file each, shared by all processes: written atomically, checked when read, the longest unused
// ones deleted when they grow too many. A cache that cannot be used is no error; it only remembers nothing.
#pragma once

#include "cuda/jit/kernel_image.h"

#include <cstdint>
#include <string>

namespace flash_attn::cuda {

class DiskCache {
 public:
  // An empty folder name: no cache.
  DiskCache(std::string folder, uint64_t limit_bytes) : folder_(std::move(folder)), limit_bytes_(limit_bytes) {}

  // False if there is none or it is damaged; a damaged file is deleted.
  bool find(const Digest& key, KernelImage* image) const;
  // The reason if it could not be kept, else empty.
  std::string keep(const KernelImage& image) const;

  std::string path_of(const Digest& key) const;

 private:
  void delete_oldest() const;

  std::string folder_;
  uint64_t limit_bytes_;
};

}  // namespace flash_attn::cuda
