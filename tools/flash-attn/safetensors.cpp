// .safetensors: 8 bytes of header length, a JSON object {name: {dtype, shape, data_offsets}}, then the data.
#include "safetensors.h"

#include "errors.h"

#include <nlohmann/json.hpp>

#include <cstring>
#include <limits>

namespace flash_attn::tool {
namespace {

using Json = nlohmann::json;
constexpr uint64_t kMaxHeaderBytes = 100u << 20;  // the limit of the format's own reader

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text.substr(0, 60)) result += (c >= 32 && c < 127) ? c : '?';
  return result + "'";
}

// Names for the message about a missing tensor: the first few, so that the line stays readable.
std::string names_of(const Json& header) {
  std::string text;
  int listed = 0;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    if (listed == 8) return text + ", ...";
    text += (listed++ ? ", " : "") + quoted(name);
  }
  return text.empty() ? "no tensors" : text;
}

Element parse_dtype(const std::string& name, const std::string& dtype) {
  struct Known {
    const char* dtype;
    Element element;
  };
  static constexpr Known kKnown[] = {{"F32", Element::f32}, {"F16", Element::f16},     {"BF16", Element::bf16},
                                     {"I32", Element::i32}, {"I64", Element::i64},     {"U64", Element::u64},
                                     {"U8", Element::u8},   {"BOOL", Element::boolean}};
  for (const Known& known : kKnown) {
    if (dtype == known.dtype) return known.element;
  }
  throw FileError("tensor " + quoted(name) + " has dtype " + quoted(dtype) +
                  "; F32, F16, BF16, I32, I64, U64, U8 and BOOL are accepted");
}

std::vector<int64_t> parse_shape(const std::string& name, const Json& shape) {
  std::vector<int64_t> extents;
  for (const Json& extent : shape) {
    if (!extent.is_number_unsigned() || extent.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      throw FileError("tensor " + quoted(name) + " has a shape whose extents are not all whole numbers below 2^63");
    }
    extents.push_back(extent.get<int64_t>());
  }
  return extents;
}

const Json& field(const Json& entry, const std::string& name, const char* key, Json::value_t type) {
  if (!entry.is_object() || !entry.contains(key) || entry[key].type() != type) {
    throw FileError("tensor " + quoted(name) + " lacks a proper '" + key + "' in the .safetensors header");
  }
  return entry[key];
}

}  // namespace

uint64_t safetensors_header_length(std::span<const std::byte> first_bytes, uint64_t file_bytes) {
  if (first_bytes.size() < 8 || file_bytes < 8) throw FileError("is too short to be a .safetensors file");
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= static_cast<uint64_t>(first_bytes[i]) << (8 * i);
  if (length > kMaxHeaderBytes)
    throw FileError("is not a .safetensors file: it announces a header of " + std::to_string(length) + " bytes");
  if (length > file_bytes - 8) throw FileError("is truncated inside the .safetensors header");
  return length;
}

TensorPlace find_tensor(std::span<const std::byte> header, uint64_t file_bytes, const std::string& name) {
  const char* text = reinterpret_cast<const char*>(header.data());
  const Json json = Json::parse(text, text + header.size(), nullptr, false);
  if (json.is_discarded() || !json.is_object()) throw FileError("is not a .safetensors file: its header is not a JSON object");
  if (name.empty() || name == "__metadata__" || !json.contains(name)) {
    throw FileError("has no tensor " + quoted(name) + "; it holds " + names_of(json));
  }
  const Json& entry = json[name];
  TensorPlace place;
  place.element = parse_dtype(name, field(entry, name, "dtype", Json::value_t::string).get<std::string>());
  place.shape = parse_shape(name, field(entry, name, "shape", Json::value_t::array));
  const Json& offsets = field(entry, name, "data_offsets", Json::value_t::array);
  if (offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned()) {
    throw FileError("tensor " + quoted(name) + " lacks a proper 'data_offsets' in the .safetensors header");
  }
  const uint64_t begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  const uint64_t data_bytes = file_bytes - 8 - header.size();
  if (begin > end || end > data_bytes) {
    throw FileError("tensor " + quoted(name) + " lies at bytes " + std::to_string(begin) + " to " + std::to_string(end) +
                    " of data, the file holds " + std::to_string(data_bytes));
  }
  if (end - begin != static_cast<uint64_t>(checked_bytes(place.shape, element_bytes(place.element)))) {
    throw FileError("tensor " + quoted(name) + " has shape " + shape_text(place.shape) + " of " + element_name(place.element) +
                    " but " + std::to_string(end - begin) + " bytes of data");
  }
  place.begin = 8 + header.size() + begin;
  place.end = 8 + header.size() + end;
  return place;
}

Array parse_safetensors(std::span<const std::byte> file, const std::string& name) {
  const uint64_t length = safetensors_header_length(file, file.size());
  const TensorPlace place = find_tensor(file.subspan(8, length), file.size(), name);
  Array array(place.element, place.shape);
  if (place.end > place.begin) std::memcpy(array.data(), file.data() + place.begin, place.end - place.begin);
  return array;
}

}  // namespace flash_attn::tool
