// Handing text to a caller's buffer.
#include "api/text.h"

#include <algorithm>
#include <cstring>

namespace flash_attn::api {

Status check_buffer(const char* buffer, size_t capacity) {
  if (buffer != nullptr || capacity == 0) return Status();
  return invalid("buffer is NULL but capacity is %zu; to ask for the length alone, pass 0", capacity);
}

void put_text(const std::string& text, char* buffer, size_t capacity, size_t* length) {
  if (length != nullptr) *length = text.size();
  if (capacity == 0) return;
  const size_t bytes = std::min(text.size(), capacity - 1);
  std::memcpy(buffer, text.data(), bytes);
  buffer[bytes] = '\0';
}

}  // namespace flash_attn::api
