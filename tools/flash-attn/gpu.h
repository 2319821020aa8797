// A GPU's memory for the program: allocated, filled and read through the NVIDIA driver, which is opened at run time. Knows nothing
// of attention.
#pragma once

#include <cstddef>
#include <memory>

namespace flash_attn::tool {

// Makes the device's primary context current on this thread for as long as it lives; what it allocated is freed with it. Every
// failure throws Failure.
class Gpu {
 public:
  explicit Gpu(int index);  // -1: the first
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  void* allocate(size_t bytes);  // not null, also for 0
  void* copy_in(const void* host, size_t bytes);
  void copy_out(void* host, const void* device, size_t bytes);  // after everything queued has run
  void wait() const;                                            // until everything queued has run
  void* context() const;                                        // the CUcontext

 private:
  struct Driver;
  std::unique_ptr<Driver> driver_;
};

}  // namespace flash_attn::tool
