// Boolean masks in the Hopper kernel: the warps of group 0 that have nothing to load turn bytes into bits, a block ahead of the
// consumers, so that the bytes' latency and arithmetic are not theirs. A consumer's thread finds one word a row and 128 keys, with
// the bits of its own columns in the order of sm90_visible.cuh: [128 keys][row][lane % 4].
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/bytes.cuh"
#include "cuda/kernels/ptx/mbarrier.cuh"
#include "cuda/kernels/sm90_configs.h"
#include "cuda/kernels/sm90_items.cuh"

namespace flash_attn::cuda {

template <class Config>
struct Sm90MaskPacker {
  static constexpr Sm90ForwardConfig c = Config::value;
  static constexpr Sm90Layout at{c};
  static constexpr int kChunks = c.tile_k / 32;
  // A thread keeps its 32 keys of the tile and goes along the rows.
  static constexpr int kRowStep = 32 * c.mask_warps() / kChunks, kRounds = (c.tile_q() + kRowStep - 1) / kRowStep;

  const ForwardParams& p;
  unsigned smem;
  int first_row, chunk;

  __device__ __forceinline__ Sm90MaskPacker(const ForwardParams& params, unsigned shared, int thread)
      : p(params), smem(shared), first_row(thread / kChunks), chunk(thread % kChunks) {}

  // Of each byte its lowest bit: whether it is not zero.
  static __device__ __forceinline__ unsigned nonzero(unsigned x) {
    return ((((x & 0x7f7f7f7fu) + 0x7f7f7f7fu) | x) & 0x80808080u) >> 7;
  }

  // 32 keys of a row, as the words of their bytes, to a byte of each of the row's four words.
  static __device__ __forceinline__ void store_unit(unsigned target, unsigned (&bytes)[8]) {
    // Masks hold zeros and ones as a rule.
    unsigned any = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) any |= bytes[j];
    if ((any & 0xfefefefeu) != 0) {
#pragma unroll
      for (int j = 0; j < 8; ++j) bytes[j] = nonzero(bytes[j]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Bits 2 j of the bytes: keys 8 j + 4 half + {0, 1, 2, 3}; pairs of neighbours are one thread's.
      const unsigned even = ((bytes[6 + half] * 4 + bytes[4 + half]) * 4 + bytes[2 + half]) * 4 + bytes[half];
      const unsigned pairs = even | even >> 7;
      store_shared_u8(target + 8 * half, pairs);
      store_shared_u8(target + 8 * half + 4, pairs >> 16);
    }
  }

  __device__ __forceinline__ unsigned unit_address(unsigned target, int row) const {
    return target + static_cast<unsigned>((chunk / 4 * c.tile_q() + row) * 16 + chunk % 4);
  }

  // All keys lie inside, and 16 bytes are read at once. Several loads at a time are on their way, those of the next block, if there
  // is one below, as far as the cache.
  __device__ __forceinline__ void pack_aligned(unsigned target, const Sm90Item& item, const unsigned char* base,
                                               bool has_next) const {
    constexpr int kAtOnce = kRounds % 3 == 0 ? 3 : 2;
    const unsigned char* const column = base + chunk * 32;
#pragma unroll 1
    for (int row = first_row; row < c.tile_q(); row += kAtOnce * kRowStep) {
      unsigned bytes[kAtOnce][8];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        const int i = min(item.tile * c.tile_q() + row + n * kRowStep, item.s_q - 1);
        const uint4* const from = reinterpret_cast<const uint4*>(column + i * p.mask_axes.row);
        const uint4 low = from[0], high = from[1];
        if (has_next) prefetch_l2(reinterpret_cast<const unsigned char*>(from) - c.tile_k);
        bytes[n][0] = low.x, bytes[n][1] = low.y, bytes[n][2] = low.z, bytes[n][3] = low.w;
        bytes[n][4] = high.x, bytes[n][5] = high.y, bytes[n][6] = high.z, bytes[n][7] = high.w;
      }
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n)
        if (row + n * kRowStep < c.tile_q()) store_unit(unit_address(target, row + n * kRowStep), bytes[n]);
    }
  }

  // Keys past the end are read as the last one: limits hide them.
  __device__ __forceinline__ void pack_any(unsigned target, const Sm90Item& item, const unsigned char* base, int j0) const {
#pragma unroll 1
    for (int row = first_row; row < c.tile_q(); row += kRowStep) {
      const unsigned char* const from = base + min(item.tile * c.tile_q() + row, item.s_q - 1) * p.mask_axes.row;
      unsigned bytes[8] = {0, 0, 0, 0, 0, 0, 0, 0};
      const int first = static_cast<int>(forget(static_cast<unsigned>(j0 + chunk * 32)));  // or all keys' places are kept at once
      if (item.s_k > 0) {
#pragma unroll
        for (int n = 0; n < 32; ++n)
          bytes[n / 4] |= static_cast<unsigned>(from[min(first + n, item.s_k - 1) * p.mask_axes.key]) << n % 4 * 8;
      }
      store_unit(unit_address(target, row), bytes);
    }
  }

  __device__ __forceinline__ void run() {
    const bool is_first_lane = (threadIdx.x & 31) == 0;
    int stage = 0, phase = 0;
    for (int count = 0;; ++count) {
      barrier_wait(smem + at.item_full + 8 * (count & 1), (count >> 1) & 1);
      const Sm90Item item = read_item(smem + at.items + (count & 1) * at.kItemBytes);
      if (item.tile < 0) break;
      Request request;
      request.index = item.request;
      request.q_row = item.q_row;
      const unsigned char* const base = p.bool_mask + bias_offset(p.mask_axes, request, 0, item.slot);
      const bool is_aligned =
          p.mask_axes.key == 1 &&
          ((reinterpret_cast<unsigned long long>(base) | static_cast<unsigned long long>(p.mask_axes.row)) & 15) == 0;
      int block = item.last - 1;
#pragma unroll 1
      for (int left = item.last - item.first + item.leading; left > 0; --left) {
        const unsigned target = smem + at.masks + stage * at.mask_tile;
        const int j0 = block * c.tile_k;
        barrier_wait(smem + at.mask_empty + 8 * stage, phase ^ 1);
        if (first_row < kRowStep) {  // the others are left over
          if (is_aligned && j0 + c.tile_k <= item.s_k)
            pack_aligned(target, item, base + j0, left > 1 && j0 > 0);
          else
            pack_any(target, item, base, j0);
        }
        __syncwarp();
        if (is_first_lane) barrier_arrive(smem + at.mask_full + 8 * stage);
        if (++stage == at.kMaskStages) stage = 0, phase ^= 1;
        block = c.mask == KeyMask::interval && block == item.first ? item.low + item.leading - 1 : block - 1;
      }
      if (is_first_lane) barrier_arrive(smem + at.item_empty + 8 * (count & 1));
    }
  }
};

}  // namespace flash_attn::cuda
