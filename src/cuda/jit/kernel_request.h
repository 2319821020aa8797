// What the caches are asked for: one kernel as text, and the short key under which a loaded one is found again. Knows nothing of
// how the text came about or what becomes of it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

namespace flash_attn::cuda {

struct KernelRequest {
  std::string name;   // for a person: "sm80_fwd d=128 causal=1"
  std::string entry;  // the extern "C" __global__ function
  std::string arch;   // "sm_90a"
  std::string text;   // the translation unit
};

// A few small numbers, compared one by one. Made, hashed and compared in a fraction of a launch's time, because each new plan asks.
class MemoryKey {
 public:
  static constexpr size_t kCapacity = 64;

  void append(long long value) {
    if (size_ < kCapacity) values_[size_] = value;
    ++size_;
  }
  bool fits() const { return size_ <= kCapacity; }
  bool operator==(const MemoryKey& other) const {
    if (size_ != other.size_ || !fits()) return false;
    for (size_t i = 0; i < size_; ++i)
      if (values_[i] != other.values_[i]) return false;
    return true;
  }
  size_t hash() const {
    uint64_t hash = size_;
    for (size_t i = 0; i < size_ && i < kCapacity; ++i) hash = std::rotl(hash, 7) + static_cast<uint64_t>(values_[i]);
    hash *= 0x9e3779b97f4a7c15u;
    return static_cast<size_t>(hash ^ hash >> 32);
  }

 private:
  long long values_[kCapacity];  // the first size_ of them
  size_t size_ = 0;
};

}  // namespace flash_attn::cuda
