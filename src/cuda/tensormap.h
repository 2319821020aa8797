// Tensor maps for tensors of [batch, row, head, dim]: how tiles of 64 columns by so many rows of one head are addressed by TMA.
#pragma once

#include "core/status.h"
#include "cuda/kernels/sm90_configs.h"
#include "math/types.h"

#include <cstdint>

namespace flash_attn::cuda {

// Shape and strides, in elements of a 16-bit dtype, that a map describes.
struct MapShape {
  DType dtype = DType::none;
  Axes axes;
  int64_t batches = 1, rows = 1, heads = 1, columns = 1;
  int box_rows = 64;
  bool has_lengths =
      false;  // rows by first_row's second scheme (kernels/sm90_items.cuh): strides between batches are not in the map
};

// What keeps TMA from describing a tensor.
enum class MapFault { none, alignment, strides, batch_stride };
MapFault find_fault(const MapShape& shape, int64_t alignment);

// The same as a reason in words; ok if there is no fault. `name` is the tensor's.
Status check_map(const char* name, const MapShape& shape, int64_t alignment);

Status encode_map(const MapShape& shape, const void* base, TensorMap* map);

}  // namespace flash_attn::cuda
