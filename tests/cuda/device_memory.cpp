// See device_memory.h.
#include "tests/cuda/device_memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace flash_attn::test {
namespace {

constexpr size_t kGap = 512;  // poison before and after every buffer

}  // namespace

DeviceMemory::~DeviceMemory() {
  driver_.cuMemFree(memory_);
  if (scratch_) driver_.cuMemFree(scratch_);
  if (state_) driver_.cuMemFree(state_);
}

size_t DeviceMemory::book(size_t bytes, size_t skew) {
  const size_t at = (end_ + kGap + 255) / 256 * 256 + skew;
  end_ = at + bytes;
  return at;
}

void DeviceMemory::place(const GuardedBuffer& buffer, size_t element, bool is_output) {
  parts_.push_back({&buffer, book(buffer.bytes(), placement_ == Placement::unaligned ? element : 0), is_output});
}

void DeviceMemory::allocate() {
  end_ += kGap;
  image_.assign(end_, 0xFF);
  require(driver_.cuMemAlloc(&memory_, end_), "allocating");
}

uintptr_t DeviceMemory::moved(uintptr_t pointer) const {
  for (const Part& part : parts_) {
    const auto base = reinterpret_cast<uintptr_t>(part.source->data());
    if (pointer >= base && pointer <= base + part.source->bytes()) return memory_ + part.at + (pointer - base);
  }
  std::fprintf(stderr, "a pointer of the test problem lies in none of its buffers\n");
  std::exit(1);
}

void DeviceMemory::fill() {
  for (const Part& part : parts_)
    if (part.source->bytes() > 0) std::memcpy(&image_[part.at], part.source->data(), part.source->bytes());
}

int64_t DeviceMemory::alignment_of(const void* base) {
  const uintptr_t low = reinterpret_cast<uintptr_t>(base) & 15;
  return low == 0 ? 16 : static_cast<int64_t>(low & (~low + 1));
}

void DeviceMemory::upload() { copy_to_device(memory_, image_.data(), image_.size()); }

const void* DeviceMemory::original(const void* device_pointer) const {
  return &image_[reinterpret_cast<uintptr_t>(device_pointer) - memory_];
}

// Memory of so many bytes of 0xFF in the place of what was there; null for none.
void* DeviceMemory::renew(cuda::CUdeviceptr* memory, size_t bytes) {
  if (*memory) driver_.cuMemFree(*memory);
  *memory = 0;
  if (bytes == 0) return nullptr;
  require(driver_.cuMemAlloc(memory, bytes), "allocating");
  const std::vector<unsigned char> filling(bytes, 0xFF);
  copy_to_device(*memory, filling.data(), filling.size());
  return reinterpret_cast<void*>(*memory);
}

void* DeviceMemory::scratch(size_t bytes) {
  scratch_bytes_ = bytes;
  if (renew(&scratch_, bytes == 0 ? 0 : bytes + 2 * kGap) == nullptr) return nullptr;
  return reinterpret_cast<void*>(scratch_ + kGap);
}

void* DeviceMemory::state(size_t bytes) { return renew(&state_, bytes); }

std::string DeviceMemory::download() {
  std::vector<unsigned char> now(image_.size());
  require(driver_.cuMemcpyDtoH(now.data(), memory_, now.size()), "copying from the device");
  for (const Part& part : parts_) {
    if (!part.is_output || part.source->bytes() == 0) continue;
    std::memcpy(part.source->data(), &now[part.at], part.source->bytes());
    std::memcpy(&now[part.at], &image_[part.at], part.source->bytes());
  }
  for (size_t n = 0; n < now.size(); ++n)
    if (now[n] != image_[n]) return "device memory was written outside the outputs, byte " + std::to_string(n);
  if (scratch_ == 0) return "";
  std::vector<unsigned char> guards(scratch_bytes_ + 2 * kGap);
  require(driver_.cuMemcpyDtoH(guards.data(), scratch_, guards.size()), "copying scratch from the device");
  for (size_t n = 0; n < kGap; ++n)
    if (guards[n] != 0xFF || guards[kGap + scratch_bytes_ + n] != 0xFF) return "device memory beside the scratch was written";
  return "";
}

}  // namespace flash_attn::test
