// See tensormap.h. The encoding is the driver's (CUDA driver API, "Tensor Map Object Management").
#include "cuda/tensormap.h"

#include "cuda/driver.h"

#include <algorithm>

namespace flash_attn::cuda {
namespace {

constexpr int64_t kElement = 2;
constexpr int64_t kLargestStride = int64_t{1} << 40;  // bytes, exclusive
constexpr uint64_t kMapRows = uint64_t{1} << 30;      // as in kernels/sm90_items.cuh
constexpr uint64_t kWrapBytes = uint64_t{1} << 35;    // times kMapRows is a whole number of address spaces
constexpr uint64_t kUnbounded = 0x7fff0000;

bool is_describable(int64_t extent, int64_t stride) {
  if (extent <= 1) return true;
  const int64_t bytes = stride * kElement;
  return bytes > 0 && bytes % 16 == 0 && bytes < kLargestStride;
}

// A dimension of one element has no stride of its own; any valid one will do.
uint64_t stride_bytes(int64_t extent, int64_t stride) { return extent <= 1 ? 16 : static_cast<uint64_t>(stride * kElement); }

// Rows that a map steps over: with lengths, those of all batches.
int64_t row_extent(const MapShape& shape) { return shape.has_lengths ? std::max(shape.rows, shape.batches) : shape.rows; }

uint64_t at_least_one(int64_t extent) { return static_cast<uint64_t>(std::max<int64_t>(extent, 1)); }

}  // namespace

MapFault find_fault(const MapShape& shape, int64_t alignment) {
  if (alignment % 16 != 0) return MapFault::alignment;
  const bool served = is_describable(row_extent(shape), shape.axes.row) && is_describable(shape.heads, shape.axes.head) &&
                      (shape.has_lengths || is_describable(shape.batches, shape.axes.batch));
  if (!served) return MapFault::strides;
  const bool counts_in_rows =
      !shape.has_lengths || shape.batches <= 1 || (shape.axes.row != 0 && shape.axes.batch % shape.axes.row == 0);
  return counts_in_rows ? MapFault::none : MapFault::batch_stride;
}

Status check_map(const char* name, const MapShape& shape, int64_t alignment) {
  using Long = long long;
  switch (find_fault(shape, alignment)) {
    case MapFault::none:
      break;
    case MapFault::alignment:
      return unsupported("%s is aligned to %lld bytes but TMA needs 16 (declare %s.alignment)", name, Long{alignment}, name);
    case MapFault::strides:
      return unsupported("%s has strides of %lld, %lld and %lld elements (batch, row, head) but TMA needs multiples of %lld, not 0",
                         name, Long{shape.axes.batch}, Long{shape.axes.row}, Long{shape.axes.head}, Long{16 / kElement});
    case MapFault::batch_stride:
      return unsupported("%s's batch stride, %lld, is no multiple of its row stride, %lld", name, Long{shape.axes.batch},
                         Long{shape.axes.row});
  }
  return {};
}

Status encode_map(const MapShape& shape, const void* base, TensorMap* map) {
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  const uint64_t row = stride_bytes(row_extent(shape), shape.axes.row), head = stride_bytes(shape.heads, shape.axes.head);
  const uint64_t plain_extents[5] = {at_least_one(shape.columns), at_least_one(shape.rows), at_least_one(shape.heads),
                                     at_least_one(shape.batches), 1};
  const uint64_t plain_strides[4] = {row, head, stride_bytes(shape.batches, shape.axes.batch), 16};
  const uint64_t length_extents[5] = {at_least_one(shape.columns), kMapRows, kUnbounded, kUnbounded, at_least_one(shape.heads)};
  const uint64_t length_strides[4] = {row, row, kWrapBytes - row, head};
  const uint32_t box[5] = {Sm90ForwardConfig::kSlab, static_cast<uint32_t>(shape.box_rows), 1, 1, 1};
  const uint32_t steps[5] = {1, 1, 1, 1, 1};
  // Enumerators of CUtensorMapDataType, ...Interleave, ...Swizzle, ...L2promotion and ...FloatOOBfill.
  constexpr int kFloat16 = 6, kBfloat16 = 9, kNotInterleaved = 0, kSwizzle128 = 3, kPromote256 = 3, kFillZeros = 0;
  const CUresult result = driver->cuTensorMapEncodeTiled(
      reinterpret_cast<CUtensorMap*>(map), shape.dtype == DType::bf16 ? kBfloat16 : kFloat16, 5, const_cast<void*>(base),
      shape.has_lengths ? length_extents : plain_extents, shape.has_lengths ? length_strides : plain_strides, box, steps,
      kNotInterleaved, kSwizzle128, kPromote256, kFillZeros);
  return result == kCudaSuccess ? Status() : driver_status(*driver, result, "encoding a tensor map");
}

}  // namespace flash_attn::cuda
