// A compiled kernel as it lies in caches and archives: machine code, what is known of it, and a checksum over all. Bytes from a
// file are not trusted before the checksum and every length have been checked.
#pragma once

#include "cuda/jit/sha256.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace flash_attn::cuda {

struct KernelImage {
  Digest key = {};
  int compiler = 0;  // NVRTC's version: 13000
  int registers = 0;
  int static_shared_bytes = 0;
  int stack_bytes = 0;
  int spill_bytes = 0;  // stored and loaded
  std::string name;     // for a person
  std::string cubin;
};

std::string encode_image(const KernelImage& image);

// False if the bytes are not exactly one whole image with this key.
bool decode_image(std::string_view bytes, const Digest& key, KernelImage* image);

}  // namespace flash_attn::cuda
