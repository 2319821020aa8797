// Shapes and strides of a problem's tensors for each way of lying in memory that the case table knows.
#pragma once

#include "tests/cases.h"

#include <initializer_list>

namespace flash_attn::test {

struct TensorLayout {
  fa_tensor_desc desc = {};
  int64_t elements = 0;       // from element 0 to the last one that is addressed, none after it
  int64_t first_element = 0;  // of v inside a buffer shared with k

  int64_t dim() const { return desc.shape[desc.rank - 1]; }
  int64_t head_stride() const { return desc.stride[desc.rank - 2]; }
  int64_t row_stride() const { return desc.stride[desc.rank - 3]; }
  int64_t offset3(int64_t row, int64_t head) const { return row * desc.stride[0] + head * desc.stride[1]; }
  int64_t offset4(int64_t n, int64_t row, int64_t head) const {
    return n * desc.stride[0] + row * desc.stride[1] + head * desc.stride[2];
  }
  // Leading coordinates; axes of extent 1 broadcast.
  int64_t broadcast_offset(std::initializer_list<int64_t> coordinates) const;
  // Elements of one request of a rank-4 tensor.
  int64_t request_elements() const;
};

// What k and v must hold; the case's layout says which of these count.
struct KeyExtents {
  int64_t rows = 0, total = 0, pages = 0, cache_rows = 0;
};

// q or o: [b, rows, h_q, dim], or packed [rows, h_q, dim].
TensorLayout query_tensor(const CaseSpec& spec, int64_t rows, int64_t dim, fa_dtype dtype);
TensorLayout key_tensor(const CaseSpec& spec, const KeyExtents& extents, fa_dtype dtype, bool is_value);
TensorLayout bias_tensor(const CaseSpec& spec, const BiasSpec& bias, fa_dtype dtype, int64_t rows, int64_t keys);
fa_tensor_desc contiguous_tensor(fa_dtype dtype, std::initializer_list<int64_t> shape);

// NaN, +inf and -inf in turn.
void poison(void* base, fa_dtype dtype, int64_t elements);

}  // namespace flash_attn::test
