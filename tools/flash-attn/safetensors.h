// Reading one tensor of a .safetensors file. The header is untrusted: offsets and sizes are checked against the file's length
// before anything is read or allocated; every malformed input is a FileError.
#pragma once

#include "array.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace flash_attn::tool {

// Where a tensor lies: bytes [begin, end) of the file.
struct TensorPlace {
  Element element = Element::f32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// Length of the JSON header that follows the file's first 8 bytes.
uint64_t safetensors_header_length(std::span<const std::byte> first_bytes, uint64_t file_bytes);

// `header` is the JSON text; `file_bytes` the length of the whole file.
TensorPlace find_tensor(std::span<const std::byte> header, uint64_t file_bytes, const std::string& name);

// The same on a whole file in memory.
Array parse_safetensors(std::span<const std::byte> file, const std::string& name);

}  // namespace flash_attn::tool
