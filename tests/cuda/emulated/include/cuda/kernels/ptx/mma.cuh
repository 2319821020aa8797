// Emulated: ldmatrix and mma.sync by their definitions in the PTX ISA, from what each lane holds.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/convert.cuh"

namespace flash_attn::cuda {

inline void load_four(unsigned (&m)[4], unsigned address, bool is_transposed) {
  const unsigned lane = emulated::this_lane();
  shared_bytes_at(address, 16);
  *static_cast<unsigned*>(emulated::lane_slot(lane)) = address;
  emulated::sync_warp();
  for (unsigned matrix = 0; matrix < 4; ++matrix) {
    unsigned short pair[2];
    for (unsigned n = 0; n < 2; ++n) {
      const unsigned row = is_transposed ? lane % 4 * 2 + n : lane / 4, column = is_transposed ? lane / 4 : lane % 4 * 2 + n;
      const unsigned line = *static_cast<unsigned*>(emulated::lane_slot(matrix * 8 + row));
      std::memcpy(&pair[n], shared_memory + line + column * 2, 2);
    }
    m[matrix] = pair[0] | static_cast<unsigned>(pair[1]) << 16;
  }
  emulated::sync_warp();
}
inline void load_matrix4(unsigned (&m)[4], unsigned address) { load_four(m, address, false); }
inline void load_matrix4_transposed(unsigned (&m)[4], unsigned address) { load_four(m, address, true); }

struct MmaOperands {
  unsigned a[4], b[2];
};

// Element `k` of the half-row that four lanes hold in registers r (k 0..7) and r + step (k 8..15).
template <DType kType>
float mma_element(const unsigned* low, unsigned high_offset, unsigned k) {
  const unsigned pair = low[k < 8 ? 0 : high_offset];
  return widen<kType>(static_cast<unsigned short>(k % 2 == 0 ? pair : pair >> 16));
}

template <DType kType>
void mma_16816(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const unsigned lane = emulated::this_lane();
  const MmaOperands mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  std::memcpy(emulated::lane_slot(lane), &mine, sizeof(mine));
  emulated::sync_warp();
  for (unsigned n = 0; n < 4; ++n) {
    const unsigned row = lane / 4, half = n / 2, column = lane % 4 * 2 + n % 2;
    float sum = 0;
    for (unsigned k = 0; k < 16; ++k) {
      const auto* left = static_cast<const MmaOperands*>(emulated::lane_slot(row * 4 + k % 8 / 2));
      const auto* right = static_cast<const MmaOperands*>(emulated::lane_slot(column * 4 + k % 8 / 2));
      sum += mma_element<kType>(left->a + half, 2, k) * mma_element<kType>(right->b, 1, k);
    }
    c[n] += sum;
  }
  emulated::sync_warp();
}

}  // namespace flash_attn::cuda
