// Checks of a single tensor description, used by the validation of a problem: form (rank, extents, strides, size), element type,
// and shape against what the problem says. Each failure names the tensor, its value and what is accepted.
#pragma once

#include "core/problem.h"
#include "core/status.h"

#include <cstdint>
#include <initializer_list>

namespace flash_attn {

// Largest extent of a dimension, so that sums of lengths, windows and offsets stay far from overflow.
inline constexpr int64_t kMaxExtent = int64_t{1} << 40;
// Largest request and head counts: they are 32-bit words of the dropout counter.
inline constexpr int64_t kMaxCount = (int64_t{1} << 31) - 1;
// Largest distance from a tensor's first byte to its last.
inline constexpr int64_t kMaxSpanBytes = int64_t{1} << 60;
// Largest stride, in elements; also of dimensions that have one index only. No element type makes more than kMaxSpanBytes of it.
inline constexpr int64_t kMaxStride = kMaxSpanBytes / 8;

// What a dimension must be, and its name in messages. A broadcast one may also be 1.
struct Dim {
  int64_t extent;
  const char* name;
  bool can_broadcast = false;
};

inline bool is_described(const fa_tensor_desc& tensor) { return tensor.dtype != FA_DTYPE_NONE; }

// Strides of a [batch, row, head, dim] tensor, or of a packed one, [row, head, dim].
Axes axes_of(const fa_tensor_desc& tensor);

// What the base pointer is a multiple of. Nothing promised: what allocations of the device have anyway, and the fast kernels ask
// for.
int64_t alignment_of(const fa_tensor_desc& tensor, fa_device_type device_type);

// Rank, extents, strides, alignment and size of a described tensor. Dimensions before `first_dim` have no stride.
Status check_form(const char* name, const fa_tensor_desc& tensor, int first_dim);

// The tensor has one of the dtypes given, named `accepted` in the message.
Status check_dtype(const char* name, const fa_tensor_desc& tensor, std::initializer_list<DType> dtypes, const char* accepted);

Status check_shape(const char* name, const fa_tensor_desc& tensor, std::initializer_list<Dim> dims);

// No element of an output is stored twice.
Status check_no_self_overlap(const char* name, const fa_tensor_desc& tensor);

// A dimension that counts something of which there must be at least `least` and may be at most `most`.
Status check_extent(const char* name, const fa_tensor_desc& tensor, int dim, int64_t least, int64_t most, const char* meaning);

}  // namespace flash_attn
