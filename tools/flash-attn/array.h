// Array: a tensor read from a file, dense and in C order, with the conversions that `run` promises. It knows neither file formats
// nor the command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace flash_attn::tool {

enum class Element { f32, f16, bf16, i32, i64, u64, u8, boolean };

const char* element_name(Element element);
size_t element_bytes(Element element);

// Elements of a shape times their size; throws FileError if an extent is negative or the product does not fit in 63 bits.
int64_t checked_bytes(const std::vector<int64_t>& shape, size_t element_bytes);

class Array {
 public:
  Array() = default;
  Array(Element element, std::vector<int64_t> shape);  // zero-filled

  Element element() const { return element_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  int rank() const { return static_cast<int>(shape_.size()); }
  int64_t count() const { return count_; }
  size_t bytes() const { return static_cast<size_t>(count_) * element_bytes(element_); }

  // Never null, also for an empty array.
  std::byte* data() { return storage_.data(); }
  const std::byte* data() const { return storage_.data(); }
  template <typename T>
  std::span<T> as() {
    return {reinterpret_cast<T*>(storage_.data()), static_cast<size_t>(count_)};
  }
  template <typename T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(storage_.data()), static_cast<size_t>(count_)};
  }

 private:
  Element element_ = Element::f32;
  std::vector<int64_t> shape_;
  int64_t count_ = 0;
  std::vector<std::byte> storage_ = std::vector<std::byte>(1);
};

std::string shape_text(const std::vector<int64_t>& shape);

// Each throws FileError naming `argument` if the element type does not convert.
Array to_float(const Array& array, Element target, const std::string& argument);  // target f32, f16 or bf16; nearest even
Array to_int32(const Array& array, const std::string& argument);                  // from i32, or i64 whose values fit
Array to_mask(const Array& array, const std::string& argument);                   // from bool or u8
Array to_uint64(const Array& array, const std::string& argument);                 // from u64, or i64 taken bit for bit

}  // namespace flash_attn::tool
