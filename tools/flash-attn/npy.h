// Reading and writing .npy (NumPy format versions 1, 2 and 3). Every malformed input is a FileError that says what is wrong;
// nothing is allocated before the sizes have been compared with the bytes at hand.
#pragma once

#include "array.h"

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace flash_attn::tool {

// `file` is the whole content. Messages do not name the file: the caller knows it.
Array parse_npy(std::span<const std::byte> file);

// Content of a version 1 file (header padded to 64 bytes); float32, int32, uint64, bool and the others of Element but bf16.
std::vector<std::byte> format_npy(const Array& array);

}  // namespace flash_attn::tool
