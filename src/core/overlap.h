// Do strided tensors share bytes? An exact answer, because outputs may legally live between inputs (o in a slot of a packed qkv
// buffer). Pure arithmetic on addresses; never touches memory.
#pragma once

#include <cstdint>

namespace flash_attn {

// The bytes of a tensor: blocks of block_bytes at base + sum of index[m] * stride_bytes[m], 0 <= index[m] < extent[m].
struct Region {
  static constexpr int kAxes = 3;

  uintptr_t base = 0;
  int64_t block_bytes = 0;  // 0: the region is empty
  int64_t extent[kAxes] = {1, 1, 1};
  int64_t stride_bytes[kAxes] = {0, 0, 0};

  // From the first byte to past the last; 0 if empty.
  int64_t span_bytes() const {
    int64_t span = block_bytes;
    for (int m = 0; m < kAxes; ++m) {
      if (extent[m] == 0) return 0;
      span += (extent[m] - 1) * stride_bytes[m];
    }
    return block_bytes == 0 ? 0 : span;
  }
};

// Do the stretches of memory from first to last byte meet? If not, the regions are apart; an empty one meets nothing.
inline bool spans_meet(const Region& a, int64_t a_span, const Region& b, int64_t b_span) {
  // A difference wraps to a huge value when its minuend lies before the other.
  return a_span != 0 && b_span != 0 &&
         (b.base - a.base < static_cast<uintptr_t>(a_span) || a.base - b.base < static_cast<uintptr_t>(b_span));
}

// May two regions share a byte? Exact but for contrived strides, for which the answer is yes once a bounded search gives up.
bool overlaps(const Region& a, const Region& b);

// Do two different indices of the region share a byte?
bool overlaps_itself(const Region& region);

}  // namespace flash_attn
