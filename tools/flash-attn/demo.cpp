// `flash-attn demo`: attention on real activations (tests/fixtures), checked against PyTorch's stored result, timed, and one head's
// weights drawn over the sentence's words. The weights are what the library returns when v is the identity matrix.
#include "commands.h"
#include "engine.h"
#include "errors.h"
#include "files.h"
#include "place.h"
#include "svg.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <numeric>

namespace flash_attn::tool {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Fixture {
  std::string folder;
  Json story;
  Array cu_seqlens;

  Array tensor(int layer, const char* name) const {
    return load_array(folder + "/minilm.safetensors:layer" + std::to_string(layer) + "." + name);
  }
};

// Where `install` puts it beside the program, above the program in the source tree, or in the tree it was built from.
std::string find_fixture() {
  std::error_code error;
  std::vector<fs::path> candidates;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (int up = 0; up < 4 && !folder.empty(); ++up, folder = folder.parent_path()) {
    candidates.push_back(folder / "share/flash-attn/fixtures");
    candidates.push_back(folder / "tests/fixtures");
  }
  candidates.emplace_back(FLASH_ATTN_FIXTURE_DIR);
  for (const fs::path& candidate : candidates) {
    if (fs::exists(candidate / "minilm.json", error)) return candidate.string();
  }
  throw FileError(
      "the demo's data (minilm.json) is neither beside the source nor beside the program; name its folder with --fixture");
}

Fixture load_fixture(const std::string& folder) {
  Fixture fixture{folder.empty() ? find_fixture() : folder, {}, {}};
  const std::string path = fixture.folder + "/minilm.json";
  fixture.story = Json::parse(read_text(path), nullptr, false);
  if (fixture.story.is_discarded()) throw FileError(path + ": is not JSON");
  fixture.cu_seqlens = to_int32(load_array(fixture.folder + "/minilm.safetensors:cu_seqlens"), "cu_seqlens");
  return fixture;
}

struct Layer {
  Array q, k, v, o;
  fa_attention_desc desc = new_desc();
  fa_attention_args args = new_args();
};

// The layer's problem, packed: two sentences one after another.
Layer make_layer(const Fixture& fixture, const Place& place, int index, fa_dtype dtype) {
  Layer layer;
  layer.desc = place.new_desc();
  const Element element = element_of(dtype);
  layer.q = to_float(fixture.tensor(index, "q"), element, "q");
  layer.k = to_float(fixture.tensor(index, "k"), element, "k");
  layer.v = to_float(fixture.tensor(index, "v"), element, "v");
  layer.o = Array(element, layer.v.shape());
  layer.desc.q = dense_tensor(dtype, layer.q.shape());
  layer.desc.k = dense_tensor(dtype, layer.k.shape());
  layer.desc.v = dense_tensor(dtype, layer.v.shape());
  layer.desc.o = dense_tensor(dtype, layer.o.shape());
  layer.desc.batch = fixture.cu_seqlens.count() - 1;
  layer.desc.inputs = FA_INPUT_CU_SEQLENS_Q | FA_INPUT_CU_SEQLENS_K;
  return layer;
}

void set_pointers(const Fixture& fixture, const Place& place, Layer* layer) {
  layer->args.q = place.pointer_to<void>(layer->q);
  layer->args.k = place.pointer_to<void>(layer->k);
  layer->args.v = place.pointer_to<void>(layer->v);
  layer->args.o = place.pointer_to<void>(layer->o);
  layer->args.cu_seqlens_q = layer->args.cu_seqlens_k = place.pointer_to<int32_t>(fixture.cu_seqlens);
}

double max_difference(const Array& a, const Array& b) {
  double most = 0;
  for (size_t i = 0; i < static_cast<size_t>(a.count()); ++i) {
    const double difference = std::fabs(double{a.as<float>()[i]} - double{b.as<float>()[i]});
    if (!(difference <= most)) most = difference;  // a NaN counts as the largest
  }
  return most;
}

// Compares with PyTorch's fp32 result. In 16 bit, what PyTorch itself loses in that type is the yardstick, as in the tests.
bool check_layers(const Fixture& fixture, const Place& place) {
  bool is_good = true;
  std::printf("   layer  type  kernel                  largest error  allowed   sentences a second\n");
  for (const int index : fixture.story["layers"]) {
    const Array expected = fixture.tensor(index, "o");
    for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16, FA_DTYPE_F16}) {
      Layer layer = make_layer(fixture, place, index, dtype);
      set_pointers(fixture, place, &layer);
      const Attention attention = place.plan(layer.desc);
      attention.run(layer.args);
      place.fetch(&layer.o, layer.args.o);
      const double error = max_difference(to_float(layer.o, Element::f32, "o"), expected);
      const Json& torch_error = fixture.story["pytorch_max_error"]["layer" + std::to_string(index)];
      const double allowed = 1e-5 + (dtype == FA_DTYPE_F32 ? 0.0 : 2 * torch_error[dtype_to_name(dtype)].get<double>());
      const Timing timing = place.time_runs(attention, layer.args, 0.1, 100000);
      const bool is_ok = error <= allowed;
      std::printf("   %-5d  %-4s  %-22s  %.1e        %.1e   %.0f%s\n", index, dtype_to_name(dtype), attention.kernel(), error,
                  allowed, static_cast<double>(layer.desc.batch) / timing.median, is_ok ? "" : "   WRONG");
      is_good = is_good && is_ok;
    }
  }
  return is_good;
}

fa_attention_desc describe_document(const Place& place, const Layer& layer, int64_t rows) {
  fa_attention_desc desc = place.new_desc();
  desc.q = desc.k = desc.v = desc.o = dense_tensor(layer.desc.q.dtype, {1, rows, layer.q.shape()[1], layer.q.shape()[2]});
  return desc;
}

// The layer's rows repeated up to a document's length, as one request: real values at a size where speed can be seen.
void time_document(const Fixture& fixture, const Place& place, int index, int64_t rows) {
  std::printf("   type  milliseconds  GFLOP/s\n");
  for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16, FA_DTYPE_F16}) {
    const Layer layer = make_layer(fixture, place, index, dtype);
    const int64_t heads = layer.q.shape()[1], d = layer.q.shape()[2];
    const auto repeat = [&](const Array& array) {
      Array longer(array.element(), {1, rows, heads, d});
      for (size_t done = 0; done < longer.bytes(); done += array.bytes()) {
        std::memcpy(longer.data() + done, array.data(), std::min(array.bytes(), longer.bytes() - done));
      }
      return longer;
    };
    const Array q = repeat(layer.q), k = repeat(layer.k), v = repeat(layer.v);
    Array o(element_of(dtype), q.shape());
    const fa_attention_desc desc = describe_document(place, layer, rows);
    fa_attention_args args = new_args();
    args.q = place.pointer_to<void>(q);
    args.k = place.pointer_to<void>(k);
    args.v = place.pointer_to<void>(v);
    args.o = place.pointer_to<void>(o);
    const Timing timing = place.time_runs(place.plan(desc), args, 0.3, 50);
    const double flops = 4.0 * static_cast<double>(heads * rows * rows * d);
    std::printf("   %-4s  %12.2f  %7.0f\n", dtype_to_name(dtype), timing.median * 1e3, flops / timing.median * 1e-9);
  }
}

fa_attention_desc describe_head(const Place& place, int64_t n, int64_t heads, int64_t d) {
  fa_attention_desc desc = place.new_desc();
  desc.q = dense_tensor(FA_DTYPE_F32, {1, n, 1, d});
  desc.q.stride[0] = n * heads * d;
  desc.q.stride[1] = heads * d;
  desc.k = desc.q;
  desc.v = desc.o = dense_tensor(FA_DTYPE_F32, {1, n, 1, n});
  for (fa_tensor_desc* tensor : {&desc.q, &desc.k, &desc.v, &desc.o}) tensor->alignment = sizeof(float);
  return desc;
}

// Weights of one head over one sentence, [n, n]: attention with v = identity. q and k are strided views into the packed arrays.
Array head_weights(const Fixture& fixture, const Place& place, int index, int64_t head, int64_t sentence) {
  const Array q = fixture.tensor(index, "q"), k = fixture.tensor(index, "k");
  const auto offsets = fixture.cu_seqlens.as<int32_t>();
  const int64_t first = offsets[static_cast<size_t>(sentence)], n = offsets[static_cast<size_t>(sentence) + 1] - first;
  const int64_t heads = q.shape()[1], d = q.shape()[2];
  Array identity(Element::f32, {1, n, 1, n}), weights(Element::f32, {1, n, 1, n});
  for (int64_t i = 0; i < n; ++i) identity.as<float>()[static_cast<size_t>(i * n + i)] = 1.0f;
  const fa_attention_desc desc = describe_head(place, n, heads, d);
  fa_attention_args args = new_args();
  args.q = place.pointer_to<float>(q) + (first * heads + head) * d;
  args.k = place.pointer_to<float>(k) + (first * heads + head) * d;
  args.v = place.pointer_to<void>(identity);
  args.o = place.pointer_to<void>(weights);
  place.plan(desc).run(args);
  place.fetch(&weights, args.o);
  return weights;
}

std::string draw_map(const Array& weights, const std::vector<std::string>& tokens, const std::string& title, size_t marked) {
  const size_t n = tokens.size();
  const double cell = 24, left = 110, top = 150;
  const double size = cell * static_cast<double>(n);
  Svg svg(left + size + 130, top + size + 40);
  svg.text(left, 26, title, {.size = 16, .is_bold = true});
  svg.text(left, 46, "row: the word that looks; column: the word it looks at; darker: more weight",
           {.size = 12, .color = "#666666"});
  for (size_t i = 0; i < n; ++i) {
    const double at = static_cast<double>(i) * cell;
    svg.text(left - 8, top + at + cell * 0.68, tokens[i], {.size = 12, .anchor = "end", .is_bold = i == marked});
    svg.text(left + at + cell * 0.65, top - 8, tokens[i], {.size = 12, .rotate = -60});
    for (size_t j = 0; j < n; ++j) {
      const double weight = weights.as<float>()[i * n + j];
      char tooltip[160];
      std::snprintf(tooltip, sizeof tooltip, "%.60s -> %.60s: %.1f%%", tokens[i].c_str(), tokens[j].c_str(), 100 * weight);
      svg.rect(left + static_cast<double>(j) * cell, top + at, cell - 1, cell - 1, heat_color(std::sqrt(weight)), tooltip);
    }
  }
  const double row = top + static_cast<double>(marked) * cell - 0.5;
  for (const double y : {row, row + cell}) svg.line(left - 1, y, left + size, y, "#d94801", 1.5);
  svg.rect(left + size + 29, top - 1, 20, 11 * 16 + 2, "#cccccc");
  for (int step = 0; step <= 10; ++step) {
    const double share = 1.0 - step / 10.0, y = top + step * 16.0;
    svg.rect(left + size + 30, y, 18, 16, heat_color(std::sqrt(share)));
    if (step % 5 == 0) svg.text(left + size + 54, y + 12, std::to_string(100 - 10 * step) + "%", {.size = 11, .color = "#666666"});
  }
  return svg.finish();
}

void show_map(const Fixture& fixture, const Place& place, const std::string& path) {
  const Json& map = fixture.story["map"];
  const int layer = map["layer"];
  const int64_t head = map["head"], sentence = map["sentence"];
  const auto tokens = fixture.story["tokens"][static_cast<size_t>(sentence)].get<std::vector<std::string>>();
  const size_t n = tokens.size();
  const auto word = static_cast<size_t>(std::find(tokens.begin(), tokens.end(), map["token"].get<std::string>()) - tokens.begin());
  const Array weights = head_weights(fixture, place, layer, head, sentence);
  if (word == n || weights.count() != static_cast<int64_t>(n * n))
    throw FileError("minilm.json and minilm.safetensors do not fit together");
  const auto row = weights.as<float>().subspan(word * n, n);
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return row[a] > row[b]; });
  std::printf("   \"%s\"\n   Layer %d, head %ld: the word \"%s\" looks at",
              fixture.story["sentences"][static_cast<size_t>(sentence)].get<std::string>().c_str(), layer, static_cast<long>(head),
              tokens[word].c_str());
  for (size_t i = 0; i < std::min<size_t>(4, n); ++i)
    std::printf("%s %s (%.0f%%)", i ? "," : "", tokens[order[i]].c_str(), 100 * double{row[order[i]]});
  const std::string title = "all-MiniLM-L6-v2, layer " + std::to_string(layer) + ", head " + std::to_string(head);
  write_text(path, draw_map(weights, tokens, title, word));
  std::printf("\n   All %zu x %zu weights are drawn in %s\n", n, n, fs::absolute(path).c_str());
}

// Everything that the demo will compute, made ready side by side; how long that took.
double prepare_all(const Fixture& fixture, const Place& place, int64_t rows) {
  const double begin = seconds_now();
  std::vector<fa_attention_desc> descs;
  for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16, FA_DTYPE_F16}) {
    const Layer layer = make_layer(fixture, place, fixture.story["layers"][0], dtype);
    descs.push_back(layer.desc);
    descs.push_back(describe_document(place, layer, rows));
    if (dtype != FA_DTYPE_F32) continue;
    const auto sentence = fixture.story["map"]["sentence"].get<size_t>();
    const auto words = static_cast<int64_t>(fixture.story["tokens"][sentence].size());
    descs.push_back(describe_head(place, words, layer.q.shape()[1], layer.q.shape()[2]));
  }
  place.prepare_together(descs);
  return seconds_now() - begin;
}

}  // namespace

void run_demo(const DemoOptions& options) {
  const Fixture fixture = load_fixture(options.fixture);
  const Json& story = fixture.story;
  const Place place(options.device);
  const auto isas = isa_names();
  constexpr int64_t rows = 4096;
  const double prepared = prepare_all(fixture, place, rows);
  std::printf("Exact attention on real activations\n   Data     %s, layers", story["model"].get<std::string>().c_str());
  for (const int layer : story["layers"]) std::printf(" %d", layer);
  std::printf(", %d heads; %zu sentences packed without padding\n", story["heads"].get<int>(), story["sentences"].size());
  if (place.is_gpu())
    std::printf("   Machine  %s; kernels ready after %.1f s\n", place.name().c_str(), prepared);
  else
    std::printf("   Machine  %s, %d threads, %s\n", place.name().c_str(), fa_get_num_threads(),
                isas.empty() ? "" : isas[0].c_str());

  std::printf("\n1. Is it right? Against PyTorch %s in fp32, stored with the data\n", story["pytorch"].get<std::string>().c_str());
  const bool is_good = check_layers(fixture, place);
  std::printf("   Allowed in 16 bit: twice what PyTorch itself loses in that type.\n");

  std::printf("\n2. How fast is it? The same rows repeated to a document of %ld tokens, every word seeing every other\n",
              static_cast<long>(rows));
  time_document(fixture, place, story["layers"][0], rows);

  std::printf("\n3. What does a head see?\n");
  show_map(fixture, place, options.svg);
  if (!is_good) throw Failure("the results differ from PyTorch's by more than allowed");
}

}  // namespace flash_attn::tool
