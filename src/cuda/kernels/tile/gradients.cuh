// Gradient rows as accumulators hold them: a lane has two neighbouring columns of each tile of eight. Written two at a time, or,
// where rows are aligned, a whole tile's row at a time after the four lanes of a quad have traded their columns.
#pragma once

#include "cuda/kernels/tile/scores.cuh"
#include "cuda/kernels/tile/write.cuh"

namespace flash_attn::cuda {

constexpr int gradient_bytes(DType type) { return type == DType::f32 ? 4 : 2; }

// Columns `column` and the next of a row that has `kColumns`; pairs are aligned to two elements if kPairs.
template <DType kType, int kColumns, bool kPairs, bool kAdds>
__device__ __forceinline__ void put_pair(char* row, int column, float x, float y) {
  if constexpr (kAdds) {
    if (column < kColumns) x += load_as_float<kType>(row, column);
    if (column + 1 < kColumns) y += load_as_float<kType>(row, column + 1);
  }
  write_pair<kType, kColumns, kPairs>(row, column, x, y);
}

// Can four tiles be written as 16 bytes a lane? `access`: bytes that rows are multiples of.
template <DType kType, int kColumns, bool kAdds>
constexpr bool writes_chunks(int access) {
  return access == 16 && kType != DType::f32 && kColumns % 8 == 0 && !kAdds;
}

// Four neighbouring tiles of a row, from `column` on: pairs x[n], y[n] of this lane. All lanes of a warp call it; only those with
// is_there write.
template <DType kType, int kColumns, bool kAdds, int kAccess>
__device__ __forceinline__ void put_tiles(char* row, int column, const float (&x)[4], const float (&y)[4], bool is_there) {
  const int q = static_cast<int>(threadIdx.x % 4);
  if constexpr (writes_chunks<kType, kColumns, kAdds>(kAccess)) {
    unsigned word[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) word[n] = pack2<kType>(x[n], y[n]);
    transpose_quad(word);
    const int at = column + 8 * q;
    if (is_there && at < kColumns) *reinterpret_cast<uint4*>(row + at * 2) = make_uint4(word[0], word[1], word[2], word[3]);
  } else {
    if (!is_there) return;
#pragma unroll
    for (int n = 0; n < 4; ++n)
      put_pair<kType, kColumns, (kAccess >= 2 * gradient_bytes(kType)), kAdds>(row, column + 8 * n + 2 * q, x[n], y[n]);
  }
}

}  // namespace flash_attn::cuda
