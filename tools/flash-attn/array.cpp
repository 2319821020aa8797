// Array storage and element conversions.
#include "array.h"

#include "errors.h"
#include "numeric.h"

#include <cstring>
#include <limits>

namespace flash_attn::tool {

const char* element_name(Element element) {
  switch (element) {
    case Element::f32:
      return "float32";
    case Element::f16:
      return "float16";
    case Element::bf16:
      return "bfloat16";
    case Element::i32:
      return "int32";
    case Element::i64:
      return "int64";
    case Element::u64:
      return "uint64";
    case Element::u8:
      return "uint8";
    case Element::boolean:
      return "bool";
  }
  return "unknown";
}

size_t element_bytes(Element element) {
  switch (element) {
    case Element::f32:
    case Element::i32:
      return 4;
    case Element::f16:
    case Element::bf16:
      return 2;
    case Element::i64:
    case Element::u64:
      return 8;
    case Element::u8:
    case Element::boolean:
      return 1;
  }
  return 1;
}

int64_t checked_bytes(const std::vector<int64_t>& shape, size_t element_bytes) {
  auto product = static_cast<int64_t>(element_bytes);
  bool is_empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0) throw FileError("shape " + shape_text(shape) + " has a negative extent");
    if (extent == 0) {
      is_empty = true;
    } else if (__builtin_mul_overflow(product, extent, &product)) {
      throw FileError("shape " + shape_text(shape) + " is larger than any file");
    }
  }
  return is_empty ? 0 : product;
}

Array::Array(Element element, std::vector<int64_t> shape) : element_(element), shape_(std::move(shape)) {
  const int64_t total = checked_bytes(shape_, element_bytes(element));
  count_ = total / static_cast<int64_t>(element_bytes(element));
  storage_.assign(total > 0 ? static_cast<size_t>(total) : 1, std::byte{0});
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

namespace {

[[noreturn]] void refuse(const Array& array, const std::string& argument, const char* accepted) {
  throw FileError(argument + " holds " + element_name(array.element()) + " but must be " + accepted);
}

float load_float(const Array& array, size_t i) {
  if (array.element() == Element::f32) return array.as<float>()[i];
  const uint16_t bits = array.as<uint16_t>()[i];
  return array.element() == Element::f16 ? f16_to_float(bits) : bf16_to_float(bits);
}

}  // namespace

Array to_float(const Array& array, Element target, const std::string& argument) {
  const Element source = array.element();
  if (source != Element::f32 && source != Element::f16 && source != Element::bf16) {
    refuse(array, argument, "float32, float16 or (from .safetensors) bfloat16");
  }
  if (source == target) return array;
  Array result(target, array.shape());
  const auto count = static_cast<size_t>(array.count());
  for (size_t i = 0; i < count; ++i) {
    const float value = load_float(array, i);
    if (target == Element::f32) result.as<float>()[i] = value;
    if (target == Element::f16) result.as<uint16_t>()[i] = float_to_f16(value);
    if (target == Element::bf16) result.as<uint16_t>()[i] = float_to_bf16(value);
  }
  return result;
}

Array to_int32(const Array& array, const std::string& argument) {
  if (array.element() == Element::i32) return array;
  if (array.element() != Element::i64) refuse(array, argument, "int32 (or int64 with values that fit)");
  Array result(Element::i32, array.shape());
  for (size_t i = 0; i < static_cast<size_t>(array.count()); ++i) {
    const int64_t value = array.as<int64_t>()[i];
    if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max()) {
      throw FileError(argument + " holds " + std::to_string(value) + " at position " + std::to_string(i) +
                      " but its values must fit in int32");
    }
    result.as<int32_t>()[i] = static_cast<int32_t>(value);
  }
  return result;
}

Array to_mask(const Array& array, const std::string& argument) {
  if (array.element() != Element::boolean && array.element() != Element::u8) refuse(array, argument, "bool or uint8");
  return array;
}

Array to_uint64(const Array& array, const std::string& argument) {
  if (array.element() != Element::u64 && array.element() != Element::i64) refuse(array, argument, "uint64");
  Array result(Element::u64, array.shape());
  std::memcpy(result.data(), array.data(), array.bytes());
  return result;
}

}  // namespace flash_attn::tool
