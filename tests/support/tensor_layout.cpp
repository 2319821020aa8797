// See tensor_layout.h.
#include "tests/support/tensor_layout.h"

#include "tests/oracle/values.h"

#include <cmath>

namespace flash_attn::test {
namespace {

int64_t count_elements(const fa_tensor_desc& desc) {
  int64_t last = 0;
  for (int axis = 0; axis < desc.rank; ++axis) {
    if (desc.shape[axis] == 0) return 0;
    last += (desc.shape[axis] - 1) * desc.stride[axis];
  }
  return last + 1;
}

// Strides for [n, rows, heads, dim]; a packed tensor drops the first.
TensorLayout lay_out(fa_dtype dtype, bool packed, int64_t n, int64_t rows, int64_t heads, int64_t dim, Strides strides,
                     int64_t fused_row_stride) {
  int64_t row = heads * dim, head = dim, batch = rows * row;
  if (strides == Strides::heads) {
    row = dim;
    head = rows * dim;
  }
  if (strides == Strides::fused) {
    row = fused_row_stride;
    batch = rows * row;
  }
  if (strides == Strides::padded) {
    head = dim + 3;
    row = heads * head + 5;
    batch = rows * row + 7;
  }
  if (strides == Strides::broadcast) batch = 0;
  TensorLayout layout;
  layout.desc.dtype = dtype;
  if (packed) {
    layout.desc = {dtype, 3, {rows, heads, dim, 0}, {row, head, 1, 0}, 0};
  } else {
    layout.desc = {dtype, 4, {n, rows, heads, dim}, {batch, row, head, 1}, 0};
  }
  layout.elements = count_elements(layout.desc);
  return layout;
}

}  // namespace

int64_t TensorLayout::broadcast_offset(std::initializer_list<int64_t> coordinates) const {
  int64_t offset = 0;
  int axis = 0;
  for (const int64_t coordinate : coordinates) {
    if (desc.shape[axis] != 1) offset += coordinate * desc.stride[axis];
    ++axis;
  }
  return offset;
}

int64_t TensorLayout::request_elements() const {
  fa_tensor_desc one = desc;
  one.shape[0] = 1;
  return count_elements(one);
}

TensorLayout query_tensor(const CaseSpec& spec, int64_t rows, int64_t dim, fa_dtype dtype) {
  const Strides strides = spec.strides == Strides::broadcast ? Strides::rows : spec.strides;
  return lay_out(dtype, spec.query_layout == QueryLayout::packed, spec.batch, rows, spec.h_q, dim, strides,
                 spec.h_q * dim + spec.h_k * (spec.d + spec.value_dim()));
}

TensorLayout key_tensor(const CaseSpec& spec, const KeyExtents& extents, fa_dtype dtype, bool is_value) {
  const int64_t dim = is_value ? spec.value_dim() : spec.d;
  const int64_t fused_row = spec.h_k * (spec.d + spec.value_dim());
  TensorLayout layout;
  switch (spec.key_layout) {
    case KeyLayout::packed:
      layout = lay_out(dtype, true, 1, extents.total, spec.h_k, dim, spec.strides, fused_row);
      break;
    case KeyLayout::paged:
      layout = lay_out(dtype, false, extents.pages, spec.page_size, spec.h_k, dim, spec.strides, fused_row);
      break;
    default:
      layout = lay_out(dtype, false, extents.cache_rows, extents.rows, spec.h_k, dim, spec.strides, fused_row);
  }
  if (is_value && spec.strides == Strides::fused) layout.first_element = spec.h_k * spec.d;
  return layout;
}

TensorLayout bias_tensor(const CaseSpec& spec, const BiasSpec& bias, fa_dtype dtype, int64_t rows, int64_t keys) {
  const int64_t heads = bias.broadcast & kHead ? 1 : spec.h_q;
  if (bias.broadcast & kRow) rows = 1;
  const int64_t padding = spec.strides == Strides::padded ? 5 : 0;
  TensorLayout layout;
  if (spec.query_layout == QueryLayout::packed) {
    layout.desc = {dtype, 3, {heads, rows, keys, 0}, {rows * (keys + padding), keys + padding, 1, 0}, 0};
  } else {
    if (bias.broadcast & kKey) keys = 1;
    const int64_t row = keys + padding, head = rows * row;
    layout.desc = {dtype, 4, {bias.broadcast & kBatch ? 1 : spec.batch, heads, rows, keys}, {heads * head, head, row, 1}, 0};
  }
  layout.elements = count_elements(layout.desc);
  return layout;
}

fa_tensor_desc contiguous_tensor(fa_dtype dtype, std::initializer_list<int64_t> shape) {
  fa_tensor_desc desc = {};
  desc.dtype = dtype;
  desc.rank = static_cast<int32_t>(shape.size());
  int axis = 0;
  for (const int64_t extent : shape) desc.shape[axis++] = extent;
  int64_t stride = 1;
  for (axis = desc.rank - 1; axis >= 0; --axis) {
    desc.stride[axis] = stride;
    stride *= desc.shape[axis];
  }
  return desc;
}

void poison(void* base, fa_dtype dtype, int64_t elements) {
  const float values[3] = {std::nanf(""), INFINITY, -INFINITY};
  for (int64_t n = 0; n < elements; ++n) oracle::store_value(base, dtype, n, values[n % 3]);
}

}  // namespace flash_attn::test
