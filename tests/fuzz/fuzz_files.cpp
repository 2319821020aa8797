// libFuzzer target: any bytes as a .npy file and as a .safetensors file. A reader either gives an array whose size fits the bytes,
// or throws FileError; anything else ends the run. What was read goes through every conversion and back through the writer.
#include "tools/flash-attn/array.h"
#include "tools/flash-attn/errors.h"
#include "tools/flash-attn/npy.h"
#include "tools/flash-attn/safetensors.h"

#include <cstdlib>
#include <cstring>
#include <functional>

namespace {

using namespace flash_attn::tool;

void expect(bool condition) {
  if (!condition) std::abort();
}

void convert(const Array& array) {
  const std::function<Array()> conversions[] = {[&] { return to_float(array, Element::f32, "input"); },
                                                [&] { return to_float(array, Element::f16, "input"); },
                                                [&] { return to_float(array, Element::bf16, "input"); },
                                                [&] { return to_int32(array, "input"); },
                                                [&] { return to_mask(array, "input"); },
                                                [&] { return to_uint64(array, "input"); }};
  for (const auto& conversion : conversions) {
    try {
      expect(conversion().count() == array.count());
    } catch (const FileError& error) {
      expect(std::strlen(error.what()) > 0);
    }
  }
}

void read_npy(std::span<const std::byte> file) {
  try {
    const Array array = parse_npy(file);
    expect(array.bytes() <= file.size());
    convert(array);
    const Array again = parse_npy(format_npy(array));
    expect(again.shape() == array.shape() && again.element() == array.element());
    expect(std::memcmp(again.data(), array.data(), array.bytes()) == 0);
  } catch (const FileError& error) {
    expect(std::strlen(error.what()) > 0);
  }
}

void read_safetensors(std::span<const std::byte> file) {
  try {
    const Array array = parse_safetensors(file, "x");
    expect(array.bytes() <= file.size());
    convert(array);
  } catch (const FileError& error) {
    expect(std::strlen(error.what()) > 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  read_npy(file);
  read_safetensors(file);
  return 0;
}
