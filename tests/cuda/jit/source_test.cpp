// Tests of the text, names and keys that a configuration turns into, and of the headers carried in the library.
#include "cuda/jit/headers.h"
#include "cuda/jit/kernel_store.h"
#include "tests/cuda/jit/toy.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>

namespace flash_attn::cuda {
namespace {

enum class Colour : int { red, green, blue };

struct Config {
  int d = 128;
  bool causal = true;
  Colour colour = Colour::blue;
  int delta = -3;
  template <class Visitor>
  void fields(Visitor&& visit) const {
    visit("d", d);
    visit("causal", causal);
    visit("colour", colour);
    visit("delta", delta);
  }
};

constexpr KernelForm kForm = {"entry",    "folder/kernel.cuh", "KernelConfig", "__launch_bounds__(kConfig.d)",
                              "int* out", "body<Config>(out);"};

TEST(Source, TextIsWhatTheDeviceCompiles) {
  const KernelRequest request = kernel_request(kForm, Config{}, 90);
  EXPECT_EQ(request.text,
            "#include \"folder/kernel.cuh\"\n"
            "namespace flash_attn::cuda {\n"
            "constexpr KernelConfig kConfig{\n"
            "  .d = 128,\n"
            "  .causal = true,\n"
            "  .colour = static_cast<decltype(KernelConfig::colour)>(2),\n"
            "  .delta = -3,\n"
            "};\n"
            "struct Config {\n"
            "  static constexpr KernelConfig value = kConfig;\n"
            "};\n"
            "extern \"C\" __global__ void __launch_bounds__(kConfig.d) entry(int* out) {\n"
            "  body<Config>(out);\n"
            "}\n"
            "}  // namespace flash_attn::cuda\n");
  EXPECT_EQ(request.name, "entry d=128 causal=1 colour=2 delta=-3");
  EXPECT_EQ(request.entry, "entry");
  EXPECT_EQ(request.arch, "sm_90a");
}

TEST(Source, GeneratedTextStandsBeforeTheEntry) {
  KernelForm form = kForm;
  form.generate = [](const void* config) { return "// d " + std::to_string(static_cast<const Config*>(config)->d) + "\n"; };
  const std::string text = kernel_request(form, Config{}, 80).text;
  EXPECT_LT(text.find("struct Config"), text.find("// d 128\n"));
  EXPECT_LT(text.find("// d 128\n"), text.find("extern \"C\""));
}

TEST(Source, ArchitecturesWithExactInstructionsAreNamedSo) {
  EXPECT_EQ(arch_name(80), "sm_80");
  EXPECT_EQ(arch_name(89), "sm_89");
  EXPECT_EQ(arch_name(90), "sm_90a");
  EXPECT_EQ(arch_name(120), "sm_120a");
}

TEST(Source, EachFieldAndTheArchitectureChangeTheMemoryKey) {
  const Config base;
  std::vector<MemoryKey> keys = {memory_key(kForm, base, 90), memory_key(kForm, base, 80), memory_key(kToyForm, ToyConfig{}, 90)};
  for (int field = 0; field < 4; ++field) {
    Config other;
    if (field == 0) other.d = 64;
    if (field == 1) other.causal = false;
    if (field == 2) other.colour = Colour::red;
    if (field == 3) other.delta = 3;
    keys.push_back(memory_key(kForm, other, 90));
  }
  for (size_t i = 0; i < keys.size(); ++i)
    for (size_t j = 0; j < keys.size(); ++j) EXPECT_EQ(keys[i] == keys[j], i == j) << i << " " << j;
  EXPECT_TRUE(memory_key(kForm, Config{}, 90) == keys[0]);
  EXPECT_EQ(memory_key(kForm, Config{}, 90).hash(), keys[0].hash());
}

TEST(Source, AKeyThatDoesNotFitEqualsNothing) {
  MemoryKey key;
  for (size_t i = 0; i <= MemoryKey::kCapacity; ++i) key.append(1);
  EXPECT_FALSE(key.fits());
  EXPECT_FALSE(key == key);
}

TEST(Source, RequestKeyDependsOnAllThatChangesTheCode) {
  const KernelRequest base = toy_request(5);
  std::set<std::string> keys;
  const auto add = [&](const Digest& digest) { keys.insert(hex_text(digest)); };
  add(request_key(base, false));
  add(request_key(base, true));
  add(request_key(base, false, 13000));
  add(request_key(base, false, 12080));
  KernelRequest other = base;
  other.arch = "sm_80";
  add(request_key(other, false));
  other = base;
  other.entry = "toy2";
  add(request_key(other, false));
  add(request_key(toy_request(6), false));
  other = base;
  other.text.replace(other.text.find("math/mask.h"), 11, "math/philox.h");
  add(request_key(other, false));
  EXPECT_EQ(keys.size(), 8u);
  other = base;
  other.name = "another name";
  add(request_key(other, false));
  EXPECT_EQ(keys.size(), 8u) << "the name is for people";
}

std::string file_text(const std::string& name) {
  std::ifstream file(std::string(FLASH_ATTN_SOURCE_DIR) + "/src/" + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The text of every #include "..." of a header.
std::vector<std::string> included(const std::string& text) {
  std::vector<std::string> names;
  for (size_t at = 0; (at = text.find("#include \"", at)) != std::string::npos;) {
    at += 10;
    names.push_back(text.substr(at, text.find('"', at) - at));
  }
  return names;
}

TEST(Headers, AreTheFilesOfTheTree) {
  ASSERT_GE(kNumEmbeddedHeaders, 4);
  for (int i = 0; i < kNumEmbeddedHeaders; ++i) {
    std::string file = file_text(kEmbeddedHeaders[i].name), text = kEmbeddedHeaders[i].text;
    ASSERT_FALSE(file.empty()) << kEmbeddedHeaders[i].name;
    // Includes are the one thing that embedding rewrites.
    for (std::string* side : {&file, &text})
      for (const std::string& name : included(*side)) side->erase(side->find("\"" + name), name.size() + 2);
    EXPECT_TRUE(text == file) << "build again? " << kEmbeddedHeaders[i].name;
  }
}

TEST(Headers, IncludeOnlyEachOther) {
  std::set<std::string> names;
  for (int i = 0; i < kNumEmbeddedHeaders; ++i) names.insert(kEmbeddedHeaders[i].name);
  EXPECT_TRUE(names.count("math/types.h"));
  for (int i = 0; i < kNumEmbeddedHeaders; ++i)
    for (const std::string& name : included(kEmbeddedHeaders[i].text))
      EXPECT_TRUE(names.count(name)) << kEmbeddedHeaders[i].name << " includes " << name;
}

TEST(Headers, ReachedOnesAreTransitiveAndUnique) {
  const auto found = reached_headers("#include \"math/seqlen.h\"\n#include \"math/mask.h\"\n#include \"unknown.h\"\n");
  std::vector<std::string> names;
  for (const EmbeddedHeader* header : found) names.push_back(header->name);
  EXPECT_EQ(names, (std::vector<std::string>{"math/seqlen.h", "math/mask.h", "math/types.h"}));
}

}  // namespace
}  // namespace flash_attn::cuda
