// See headers.h. Reads #include lines as text: conditional ones count too, which at worst makes a key depend on more than it must.
#include "cuda/jit/headers.h"

#include <algorithm>

namespace flash_attn::cuda {
namespace {

const EmbeddedHeader* find_header(std::string_view name) {
  for (int i = 0; i < kNumEmbeddedHeaders; ++i)
    if (name == kEmbeddedHeaders[i].name) return &kEmbeddedHeaders[i];
  return nullptr;
}

void collect(std::string_view text, std::vector<const EmbeddedHeader*>* found) {
  constexpr std::string_view kInclude = "#include \"";
  for (size_t at = text.find(kInclude); at != std::string_view::npos; at = text.find(kInclude, at)) {
    at += kInclude.size();
    const size_t end = text.find('"', at);
    if (end == std::string_view::npos) return;
    const EmbeddedHeader* header = find_header(text.substr(at, end - at));
    if (!header || std::find(found->begin(), found->end(), header) != found->end()) continue;
    found->push_back(header);
    collect(header->text, found);
  }
}

}  // namespace

std::vector<const EmbeddedHeader*> reached_headers(std::string_view text) {
  std::vector<const EmbeddedHeader*> found;
  collect(text, &found);
  return found;
}

}  // namespace flash_attn::cuda
