// Rows of q, k and v on their way to shared memory: where they lie, in whichever layout, and the copies of whole tiles. Rows past
// the end and columns past the head dim become zeros, so that dead memory never reaches a product.
#pragma once

#include "cuda/kernels/configs.h"
#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/tile/work.cuh"

namespace flash_attn::cuda {

// Offset of chunk c of row r in a tile of `kRowBytes` a row.
template <int kRowBytes>
__device__ __forceinline__ unsigned chunk_offset(int row, int chunk) {
  constexpr RowSwizzle swizzle = row_swizzle(kRowBytes / 16);
  return static_cast<unsigned>(row * kRowBytes + ((chunk ^ ((row >> swizzle.shift) & swizzle.mask)) << 4));
}

// The same for chunk 2 * pair + half, cheap when `pair` is a constant: only the three lowest bits of a chunk take part in the
// swizzle.
struct ChunkColumn {
  unsigned base, bits;
};
template <int kRowBytes>
__device__ __forceinline__ ChunkColumn chunk_column(unsigned tile, int row, int half) {
  constexpr RowSwizzle swizzle = row_swizzle(kRowBytes / 16);
  return {tile + static_cast<unsigned>(row * kRowBytes),
          static_cast<unsigned>((half ^ ((row >> swizzle.shift) & swizzle.mask)) << 4)};
}
__device__ __forceinline__ unsigned chunk_address(ChunkColumn column, int pair) {
  return column.base + static_cast<unsigned>((2 * pair & ~7) * 16) + (column.bits ^ static_cast<unsigned>((2 * pair & 7) * 16));
}

// One 16-byte chunk, `valid` bytes of it from memory; the source is a multiple of kAccess.
template <int kAccess>
__device__ __forceinline__ void copy_chunk(unsigned target, const char* source, int valid) {
  if constexpr (kAccess >= 4) {
#pragma unroll
    for (int at = 0; at < 16; at += kAccess) copy_async<kAccess>(target + at, source + at, clamp_int(valid - at, 0, kAccess));
  } else {
#pragma unroll
    for (int at = 0; at < 16; at += 2) {
      unsigned short x = 0;
      if (at < valid) x = *reinterpret_cast<const unsigned short*>(source + at);
      store_shared_u16(target + at, x);
    }
  }
}

// How the threads share a tile: groups of kLanes threads take a row each, a few chunks apart, so that a thread keeps its column,
// its place in the swizzle and a constant step between its rows.
template <int kRowBytes, int kThreads>
struct CopyLanes {
  static constexpr unsigned kLanes = row_swizzle(kRowBytes / 16).mask + 1;  // 8, 4 or 2; divides the chunks of a row
  static constexpr int kStep = kThreads / static_cast<int>(kLanes);         // rows; a multiple of 8
  static __device__ __forceinline__ int row(unsigned thread) { return static_cast<int>(thread / kLanes); }
  static __device__ __forceinline__ int chunk(unsigned thread) { return static_cast<int>(thread % kLanes); }
};

// Copies `kRows` rows; next(row, &address) is called for this thread's rows in order, says whether the row is there, and where it
// begins.
template <int kRows, int kRowBytes, int kValidBytes, int kThreads, int kAccess, class Next>
__device__ __forceinline__ void copy_rows(unsigned target, unsigned thread, Next&& next) {
  using Lanes = CopyLanes<kRowBytes, kThreads>;
  constexpr int kSpan = static_cast<int>(Lanes::kLanes) * 16;
  const int first = Lanes::row(thread), chunk = Lanes::chunk(thread);
  const unsigned to = target + chunk_offset<kRowBytes>(first, chunk);
#pragma unroll(kAccess == 16 ? 16 : 1)
  for (int n = 0; n < (kRows + Lanes::kStep - 1) / Lanes::kStep; ++n) {
    const int row = first + n * Lanes::kStep;
    if (kRows % Lanes::kStep != 0 && row >= kRows) break;
    const char* address = nullptr;
    const bool is_there = next(row, address);
#pragma unroll
    for (int column = 0; column < kRowBytes; column += kSpan) {
      const bool is_whole = column + kSpan <= kValidBytes;
      const int valid = is_whole ? 16 : clamp_int(kValidBytes - column - chunk * 16, 0, 16);
      copy_chunk<kAccess>(to + n * Lanes::kStep * kRowBytes + column, address + chunk * 16 + column, is_there ? valid : 0);
    }
  }
}

// The same in pieces, for copies between other work. next(row) gives the row's address and says with `is_there` whether it exists.
template <int kRows, int kRowBytes, int kValidBytes, int kThreads, int kAccess>
struct CopyPieces {
  using Lanes = CopyLanes<kRowBytes, kThreads>;
  static constexpr int kSpan = static_cast<int>(Lanes::kLanes) * 16;
  static constexpr int kColumns = kRowBytes / kSpan;
  static constexpr int kCount = (kRows + Lanes::kStep - 1) / Lanes::kStep * kColumns;

  unsigned to;
  int first, chunk;
  const char* address = nullptr;
  bool is_there = false;

  __device__ __forceinline__ CopyPieces(unsigned target, unsigned thread)
      : to(target + chunk_offset<kRowBytes>(Lanes::row(thread), Lanes::chunk(thread))),
        first(Lanes::row(thread)),
        chunk(Lanes::chunk(thread)) {}

  // Piece n of kCount, in order.
  template <class Next>
  __device__ __forceinline__ void copy(int n, Next&& next) {
    const int row = first + n / kColumns * Lanes::kStep, column = n % kColumns * kSpan;
    if (kRows % Lanes::kStep != 0 && row >= kRows) return;
    if (n % kColumns == 0) {
      is_there = next(row, address);
      address = forget(address + chunk * 16);  // one address, to which columns are constant offsets
    }
    const int valid = column + kSpan <= kValidBytes ? 16 : clamp_int(kValidBytes - column - chunk * 16, 0, 16);
    copy_chunk<kAccess>(to + n / kColumns * Lanes::kStep * kRowBytes + column, address + column, is_there ? valid : 0);
  }
};

// Where a request's keys and values of one head begin, in bytes.
struct KeyRows {
  const char* k;
  const char* v;
};
__device__ __forceinline__ KeyRows key_rows(const ForwardParams& p, const Request& request, int head_k, int element_bytes) {
  const int r = static_cast<int>(request.index);
  KeyRows rows{p.k, p.v};
  long long k_offset = head_k * p.k_axes.head, v_offset = head_k * p.v_axes.head;
  if (p.key_source == KeySource::pointers) {
    rows.k = static_cast<const char*>(p.k_ptrs[r]);
    rows.v = static_cast<const char*>(p.v_ptrs[r]);
  }
  if (p.key_source != KeySource::paged) {
    const long long batch = p.key_source == KeySource::pointers ? 0 : request.k_batch;
    k_offset += batch * p.k_axes.batch + request.k_row * p.k_axes.row;
    v_offset += batch * p.v_axes.batch + request.k_row * p.v_axes.row;
  }
  rows.k = forget(rows.k + k_offset * element_bytes);  // one address each, not a base and an offset
  rows.v = forget(rows.v + v_offset * element_bytes);
  return rows;
}

// The page and row of effective key j; of keys past the end, any.
__device__ __forceinline__ int2 find_slot(const ForwardParams& p, const Request& request, int j) {
  if (j >= request.s_k) return make_int2(0, 0);
  const int row = static_cast<int>(request.k_row) + j;
  const int column = divide(row, p.page_size);
  const int page = p.block_table[request.index * p.block_table_stride + column];
  return make_int2(clamp_int(page, 0, p.num_pages - 1), row - column * static_cast<int>(p.page_size.value));
}

}  // namespace flash_attn::cuda
