// Byte compression of archives, so that they need no library for it: runs of new bytes, and copies of earlier ones. Machine code
// shrinks to less than half. Pure bytes in, bytes out; unpacking trusts nothing.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace flash_attn::cuda {

std::string pack_bytes(std::string_view bytes);

// False unless the text unpacks to exactly `size` bytes.
bool unpack_bytes(std::string_view packed, size_t size, std::string* bytes);

}  // namespace flash_attn::cuda
