// See guarded_buffer.h.
#include "tests/support/guarded_buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace flash_attn::test {
namespace {

constexpr unsigned char kSlack = 0xC3;

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

GuardedBuffer::GuardedBuffer(size_t bytes, size_t alignment, Edge edge) : bytes_(bytes) {
  const size_t page = page_bytes();
  payload_bytes_ = (bytes + page - 1) / page * page;
  mapping_bytes_ = payload_bytes_ + 2 * page;
  void* mapping = mmap(nullptr, mapping_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED ||
      (payload_bytes_ > 0 && mprotect(static_cast<char*>(mapping) + page, payload_bytes_, PROT_READ | PROT_WRITE) != 0)) {
    std::fprintf(stderr, "cannot map %zu bytes for a test buffer\n", mapping_bytes_);
    std::exit(1);
  }
  mapping_ = static_cast<unsigned char*>(mapping);
  data_ = mapping_ + page;
  // Short of the end by what the alignment demands; for elements and multiples of elements that is nothing.
  if (edge == Edge::end) data_ += (payload_bytes_ - bytes) / alignment * alignment;
  std::memset(mapping_ + page, kSlack, static_cast<size_t>(data_ - mapping_) - page);
  unsigned char* const end = mapping_ + page + payload_bytes_;
  if (data_ + bytes < end) std::memset(data_ + bytes, kSlack, static_cast<size_t>(end - (data_ + bytes)));
}

GuardedBuffer::GuardedBuffer(GuardedBuffer&& other) noexcept { *this = std::move(other); }

GuardedBuffer& GuardedBuffer::operator=(GuardedBuffer&& other) noexcept {
  if (this == &other) return *this;
  release();
  mapping_ = std::exchange(other.mapping_, nullptr);
  mapping_bytes_ = std::exchange(other.mapping_bytes_, 0);
  payload_bytes_ = std::exchange(other.payload_bytes_, 0);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

GuardedBuffer::~GuardedBuffer() { release(); }

void GuardedBuffer::release() {
  if (mapping_ != nullptr) munmap(mapping_, mapping_bytes_);
  mapping_ = nullptr;
}

void GuardedBuffer::make_read_only() {
  if (payload_bytes_ > 0) mprotect(mapping_ + page_bytes(), payload_bytes_, PROT_READ);
}

bool GuardedBuffer::is_slack_intact() const {
  if (mapping_ == nullptr) return true;
  const unsigned char* const begin = mapping_ + page_bytes();
  for (const unsigned char* byte = begin; byte < data_; ++byte) {
    if (*byte != kSlack) return false;
  }
  for (const unsigned char* byte = data_ + bytes_; byte < begin + payload_bytes_; ++byte) {
    if (*byte != kSlack) return false;
  }
  return true;
}

}  // namespace flash_attn::test
