// Buffers of a test in one block of device memory with poison between them, and a plan's scratch and state beside it. Knows nothing
// of what the buffers are.
#pragma once

#include "tests/cuda/gpu.h"
#include "tests/support/guarded_buffer.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace flash_attn::test {

enum class Placement {
  aligned,   // every buffer begins at a multiple of 256 bytes, and the description promises what follows from it
  unaligned  // at odd multiples of its element size; nothing is promised
};

class DeviceMemory {
 public:
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Writes the initial contents, the outputs' included, to the device again.
  void upload();
  // Copies the outputs into their own buffers, and looks whether any other memory changed; empty if not.
  std::string download();
  // What the memory behind a device pointer holds after upload().
  const void* original(const void* device_pointer) const;

  // Scratch of `bytes`, full of 0xFF, between guards.
  void* scratch(size_t bytes);
  // Memory for a plan's state, full of 0xFF; null for none.
  void* state(size_t bytes);

 protected:
  explicit DeviceMemory(Placement placement) : driver_(require_gpu()), placement_(placement) {}

  size_t book(size_t bytes, size_t skew);
  void place(const GuardedBuffer& buffer, size_t element, bool is_output);
  // When all is booked: device memory, and an image of it that is all poison.
  void allocate();
  // A pointer into one of the buffers becomes one into the device memory.
  template <class T>
  void move(T*& pointer) const {
    if (pointer != nullptr) pointer = reinterpret_cast<T*>(moved(reinterpret_cast<uintptr_t>(pointer)));
  }
  // The buffers' contents go into the image.
  void fill();
  // What a description may promise of a device pointer: 16 at most.
  static int64_t alignment_of(const void* base);

  Placement placement() const { return placement_; }
  cuda::CUdeviceptr memory() const { return memory_; }
  unsigned char* image(size_t at) { return &image_[at]; }

 private:
  struct Part {
    const GuardedBuffer* source;
    size_t at;
    bool is_output;
  };
  uintptr_t moved(uintptr_t pointer) const;
  void* renew(cuda::CUdeviceptr* memory, size_t bytes);

  const cuda::Driver& driver_;
  Placement placement_;
  std::vector<Part> parts_;
  std::vector<unsigned char> image_;  // what the device memory holds before a run
  size_t end_ = 0;
  cuda::CUdeviceptr memory_ = 0, scratch_ = 0, state_ = 0;
  size_t scratch_bytes_ = 0;
};

}  // namespace flash_attn::test
