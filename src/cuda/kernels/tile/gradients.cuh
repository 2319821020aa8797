// Gradient rows: two neighbouring columns at a time, written or added to what is there.
#pragma once

#include "cuda/kernels/tile/scores.cuh"
#include "cuda/kernels/tile/write.cuh"

namespace flash_attn::cuda {

// Columns `column` and the next of a row that has `kColumns`; pairs are aligned to two elements if kPairs.
template <DType kType, int kColumns, bool kPairs, bool kAdds>
__device__ __forceinline__ void put_pair(char* row, int column, float x, float y) {
  if constexpr (kAdds) {
    if (column < kColumns) x += load_as_float<kType>(row, column);
    if (column + 1 < kColumns) y += load_as_float<kType>(row, column + 1);
  }
  write_pair<kType, kColumns, kPairs>(row, column, x, y);
}

constexpr int gradient_bytes(DType type) { return type == DType::f32 ? 4 : 2; }

}  // namespace flash_attn::cuda
