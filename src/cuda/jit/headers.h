// The text of every header that device code includes, carried inside the library (cmake/embed.cmake fills the table at build time),
// and what of it one unit reaches.
#pragma once

#include "cuda/jit/sha256.h"

#include <string_view>
#include <vector>

namespace flash_attn::cuda {

struct EmbeddedHeader {
  const char* name;  // as in #include "...": "math/mask.h"
  const char* text;
};

extern const EmbeddedHeader kEmbeddedHeaders[];
extern const int kNumEmbeddedHeaders;

// The embedded headers that `text` includes, directly or through others, each once, in order of the first mention. Names that are
// not embedded are left for the compiler to report.
std::vector<const EmbeddedHeader*> reached_headers(std::string_view text);

}  // namespace flash_attn::cuda
