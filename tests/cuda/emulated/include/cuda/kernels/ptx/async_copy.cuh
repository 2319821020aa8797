// Emulated: asynchronous copies happen as late as they may, and their targets hold NaN until then, so that a missing wait shows.
#pragma once

#include "emulated_block.h"

namespace flash_attn::cuda {

inline unsigned forget(unsigned x) { return x; }
inline const char* forget(const char* x) { return x; }

inline unsigned char* shared_bytes_at(unsigned address, unsigned bytes) {
  if (address % bytes != 0 || address + bytes > emulated::kSharedBytes) emulated::fail("wrong shared-memory address", address);
  return shared_memory + address;
}

template <int kBytes>
void copy_async(unsigned target, const void* source, int valid) {
  if (valid < 0 || valid > kBytes) emulated::fail("wrong number of valid bytes", static_cast<unsigned long long>(valid));
  if (valid > 0 && reinterpret_cast<uintptr_t>(source) % kBytes != 0)
    emulated::fail("misaligned source", reinterpret_cast<uintptr_t>(source));
  unsigned char* const to = shared_bytes_at(target, kBytes);
  std::memset(to, 0xFF, kBytes);
  emulated::this_thread().open.push_back({to, source, kBytes, valid});
}
inline void copy_async_commit() {
  emulated::Thread& thread = emulated::this_thread();
  thread.groups.push_back(std::move(thread.open));
  thread.open.clear();
}
template <int kPending>
void copy_async_wait() {
  auto& groups = emulated::this_thread().groups;
  for (; groups.size() > kPending; groups.erase(groups.begin())) {
    for (const emulated::Copy& copy : groups.front()) {
      std::memset(copy.target, 0, static_cast<size_t>(copy.bytes));
      if (copy.valid > 0) std::memcpy(copy.target, copy.source, static_cast<size_t>(copy.valid));
    }
  }
}

template <class T>
T load_shared(unsigned address) {
  T x;
  std::memcpy(&x, shared_bytes_at(address, sizeof(T)), sizeof(T));
  return x;
}
inline void store_shared_u16(unsigned address, unsigned short x) { std::memcpy(shared_bytes_at(address, 2), &x, 2); }
inline void store_shared_int2(unsigned address, int x, int y) {
  const int2 pair{x, y};
  std::memcpy(shared_bytes_at(address, 8), &pair, 8);
}
inline int2 load_shared_int2(unsigned address) { return load_shared<int2>(address); }
inline unsigned load_shared_u32(unsigned address) { return load_shared<unsigned>(address); }
inline void store_shared_address(unsigned address, const char* x) { std::memcpy(shared_bytes_at(address, 8), &x, 8); }
inline const char* load_shared_address(unsigned address) { return load_shared<const char*>(address); }
inline float4 load_shared_float4(unsigned address) { return load_shared<float4>(address); }
inline float2 load_shared_float2(unsigned address) { return load_shared<float2>(address); }

}  // namespace flash_attn::cuda
