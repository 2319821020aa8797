// Memory between two pages that fault: a read or write past the end (or before the beginning) stops the test at the very access.
// The slack that page sizes leave on the other side holds a pattern that is checked.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flash_attn::test {

class GuardedBuffer {
 public:
  enum class Edge {
    end,   // the last byte touches the guard page; aligned to `alignment` only
    begin  // the first byte touches the guard page; aligned to a page
  };

  GuardedBuffer() = default;
  GuardedBuffer(size_t bytes, size_t alignment, Edge edge);
  GuardedBuffer(GuardedBuffer&& other) noexcept;
  GuardedBuffer& operator=(GuardedBuffer&& other) noexcept;
  ~GuardedBuffer();

  // Never null once constructed with a size, even 0.
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

  // From now on a write faults.
  void make_read_only();
  bool is_slack_intact() const;

 private:
  void release();

  unsigned char* mapping_ = nullptr;  // guard page, payload pages, guard page
  size_t mapping_bytes_ = 0;
  size_t payload_bytes_ = 0;
  unsigned char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace flash_attn::test
