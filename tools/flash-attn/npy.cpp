// The .npy header is a Python dictionary literal; this file parses just the form that NumPy writes, strictly.
#include "npy.h"

#include "errors.h"

#include <cctype>
#include <cstring>
#include <optional>
#include <string_view>

namespace flash_attn::tool {
namespace {

constexpr size_t kMagicBytes = 6;
constexpr char kMagic[kMagicBytes + 1] = "\x93NUMPY";
constexpr size_t kMaxRank = 32;

struct Header {
  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<int64_t>> shape;
};

// Text of a file, fit for one line of a message.
std::string printable(std::string_view text) {
  std::string result;
  for (const char c : text.substr(0, 40)) result += (c >= 32 && c < 127) ? c : '?';
  return result;
}

class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  Header parse() {
    Header header;
    expect('{');
    while (!accept('}')) {
      const std::string key = string_literal();
      expect(':');
      if (key == "descr") {
        if (peek() != '\'' && peek() != '"')
          throw FileError("structured dtypes are not accepted; float32, float16, int32, int64, uint64 or bool are");
        header.descr = string_literal();
      } else if (key == "fortran_order") {
        header.fortran_order = boolean();
      } else if (key == "shape") {
        header.shape = tuple();
      } else {
        fail("has the unknown key '" + printable(key) + "'");
      }
      if (!accept(',') && peek() != '}') fail("lacks a comma or closing brace at byte " + std::to_string(position_));
    }
    if (peek() != '\0') fail("has text after its dictionary");
    return header;
  }

 private:
  [[noreturn]] static void fail(const std::string& what) { throw FileError(".npy header " + what); }

  void skip_space() {
    while (position_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[position_]))) ++position_;
  }
  char peek() {
    skip_space();
    return position_ < text_.size() ? text_[position_] : '\0';
  }
  bool accept(char wanted) {
    if (peek() != wanted || position_ >= text_.size()) return false;
    ++position_;
    return true;
  }
  void expect(char wanted) {
    if (!accept(wanted)) fail(std::string("lacks '") + wanted + "' at byte " + std::to_string(position_));
  }

  std::string string_literal() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail("lacks a quoted word at byte " + std::to_string(position_));
    const size_t end = text_.find(quote, position_ + 1);
    if (end == std::string_view::npos) fail("has an unfinished word");
    std::string word(text_.substr(position_ + 1, end - position_ - 1));
    position_ = end + 1;
    return word;
  }

  bool boolean() {
    skip_space();
    for (const auto& [word, value] : {std::pair<std::string_view, bool>{"True", true}, {"False", false}}) {
      if (text_.substr(position_, word.size()) == word) {
        position_ += word.size();
        return value;
      }
    }
    fail("has a fortran_order that is neither True nor False");
  }

  std::vector<int64_t> tuple() {
    std::vector<int64_t> extents;
    expect('(');
    while (!accept(')')) {
      extents.push_back(integer());
      if (extents.size() > kMaxRank) fail("has a shape of more than 32 dimensions");
      if (!accept(',') && peek() != ')') fail("has a shape that is no tuple of numbers");
    }
    return extents;
  }

  int64_t integer() {
    const bool is_negative = accept('-');
    if (!std::isdigit(static_cast<unsigned char>(peek()))) fail("has a shape that is no tuple of numbers");
    int64_t value = 0;
    while (position_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[position_]))) {
      if (__builtin_mul_overflow(value, int64_t{10}, &value) || __builtin_add_overflow(value, text_[position_] - '0', &value)) {
        fail("has an extent beyond 63 bits");
      }
      ++position_;
    }
    if (position_ < text_.size() && text_[position_] == 'L') ++position_;  // Python 2 wrote long integers so
    if (is_negative) fail("has the negative extent -" + std::to_string(value));
    return value;
  }

  std::string_view text_;
  size_t position_ = 0;
};

Element parse_descr(const std::string& descr) {
  struct Known {
    std::string_view descr;
    Element element;
  };
  static constexpr Known kKnown[] = {{"<f4", Element::f32},     {"<f2", Element::f16}, {"<i4", Element::i32},
                                     {"<i8", Element::i64},     {"<u8", Element::u64}, {"|u1", Element::u8},
                                     {"|b1", Element::boolean}, {"=f4", Element::f32}};
  for (const Known& known : kKnown) {
    if (known.descr == descr) return known.element;
  }
  throw FileError("dtype '" + printable(descr) +
                  "' is not accepted; little-endian float32, float16, int32, int64, uint64, uint8 or bool are");
}

const char* descr_of(Element element) {
  switch (element) {
    case Element::f32:
      return "<f4";
    case Element::f16:
      return "<f2";
    case Element::i32:
      return "<i4";
    case Element::i64:
      return "<i8";
    case Element::u64:
      return "<u8";
    case Element::u8:
      return "|u1";
    case Element::boolean:
      return "|b1";
    case Element::bf16:
      break;
  }
  throw FileError(".npy has no bfloat16");
}

uint8_t byte_at(std::span<const std::byte> file, size_t index) { return static_cast<uint8_t>(file[index]); }

// Where the header text lies: {offset, length}.
std::pair<size_t, size_t> header_range(std::span<const std::byte> file) {
  if (file.size() < kMagicBytes || std::memcmp(file.data(), kMagic, kMagicBytes) != 0) throw FileError("is not a .npy file");
  if (file.size() < kMagicBytes + 2) throw FileError("is truncated inside the .npy header");
  const int version = byte_at(file, 6);
  if (version < 1 || version > 3) {
    throw FileError("has .npy format version " + std::to_string(version) + "; versions 1, 2 and 3 are accepted");
  }
  const size_t length_bytes = version == 1 ? 2 : 4;
  const size_t begin = kMagicBytes + 2 + length_bytes;
  if (file.size() < begin) throw FileError("is truncated inside the .npy header");
  size_t length = 0;
  for (size_t i = 0; i < length_bytes; ++i) length |= static_cast<size_t>(byte_at(file, kMagicBytes + 2 + i)) << (8 * i);
  if (file.size() - begin < length) throw FileError("is truncated inside the .npy header");
  return {begin, length};
}

}  // namespace

Array parse_npy(std::span<const std::byte> file) {
  const auto [begin, length] = header_range(file);
  const Header header = HeaderParser({reinterpret_cast<const char*>(file.data()) + begin, length}).parse();
  if (!header.descr || !header.fortran_order || !header.shape) {
    throw FileError(".npy header lacks one of descr, fortran_order and shape");
  }
  const Element element = parse_descr(*header.descr);
  if (*header.fortran_order && header.shape->size() > 1) {
    throw FileError("is in Fortran order; only C order is accepted (numpy.ascontiguousarray makes it)");
  }
  const auto wanted = static_cast<size_t>(checked_bytes(*header.shape, element_bytes(element)));
  const size_t present = file.size() - begin - length;
  if (present != wanted) {
    throw FileError((present < wanted ? "is truncated: shape " : "has bytes left over: shape ") + shape_text(*header.shape) +
                    " of " + element_name(element) + " needs " + std::to_string(wanted) + " bytes of data, the file holds " +
                    std::to_string(present));
  }
  Array array(element, *header.shape);
  if (wanted > 0) std::memcpy(array.data(), file.data() + begin + length, wanted);
  return array;
}

std::vector<std::byte> format_npy(const Array& array) {
  std::string shape = "(";
  for (const int64_t extent : array.shape()) shape += std::to_string(extent) + ", ";
  if (array.rank() > 1) shape.resize(shape.size() - 2);
  if (array.rank() == 1) shape.resize(shape.size() - 1);
  std::string header =
      std::string("{'descr': '") + descr_of(array.element()) + "', 'fortran_order': False, 'shape': " + shape + "), }";
  const size_t unpadded = kMagicBytes + 4 + header.size() + 1;
  header.append((64 - unpadded % 64) % 64, ' ');
  header += '\n';

  std::vector<std::byte> file(kMagicBytes + 4 + header.size() + array.bytes());
  std::memcpy(file.data(), kMagic, kMagicBytes);
  file[6] = std::byte{1};
  file[8] = static_cast<std::byte>(header.size() & 0xFF);
  file[9] = static_cast<std::byte>(header.size() >> 8);
  std::memcpy(file.data() + kMagicBytes + 4, header.data(), header.size());
  if (array.bytes() > 0) std::memcpy(file.data() + kMagicBytes + 4 + header.size(), array.data(), array.bytes());
  return file;
}

}  // namespace flash_attn::tool
