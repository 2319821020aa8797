// Rows of 16-bit elements that begin at any of them, or at multiples of 4 or 8 bytes, on their way from memory to tiles of slabs,
// [slab][row][64 columns] with the 128-byte swizzle. Eight lanes read a row by the aligned units of 16 bytes that it lies in, and
// shift what they and their neighbours hold. Knows nothing of where rows lie.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/warpgroup.cuh"
#include "cuda/kernels/tile/rows.cuh"

namespace flash_attn::cuda {

// Memory that rows lie in: an aligned unit may reach past it, and then its elements are read one by one.
struct MemorySpan {
  const char* begin;
  const char* end;
  const char* first_unit;  // that lies within; as many bytes of units follow
  unsigned long long unit_bytes;

  __device__ __forceinline__ MemorySpan(const char* from, const char* to) : begin(from), end(to) {
    const unsigned to_unit = static_cast<unsigned>(-reinterpret_cast<unsigned long long>(from) % 16);
    first_unit = from + to_unit;
    unit_bytes = to > first_unit ? static_cast<unsigned long long>(to - first_unit) / 16 * 16 : 0;
  }
};

struct Unit {
  unsigned word[4];
};

__device__ __forceinline__ Unit load_unit(const char* at, const MemorySpan& span) {
  if (static_cast<unsigned long long>(at - span.first_unit) < span.unit_bytes) {
    const uint4 x = *reinterpret_cast<const uint4*>(at);
    return {{x.x, x.y, x.z, x.w}};
  }
  // Seldom: few instructions matter more than time.
  Unit unit{};
#pragma unroll 1
  for (int n = 7; n >= 0; --n) {
    const char* const element = at + 2 * n;
#pragma unroll
    for (int w = 3; w > 0; --w) unit.word[w] = unit.word[w] << 16 | unit.word[w - 1] >> 16;
    unit.word[0] <<= 16;
    if (element >= span.begin && element < span.end) unit.word[0] |= *reinterpret_cast<const unsigned short*>(element);
  }
  return unit;
}

// Words of the higher one of two units that the 16 bytes from a multiple of kAccess in the lower one may reach.
template <int kAccess>
constexpr int kReachedWords = (16 - kAccess + 3) / 4;

// 16 bytes from byte `shift`, a multiple of kAccess below 16, of two units.
template <int kAccess>
__device__ __forceinline__ Unit shift_units(const Unit& low, const Unit& high, unsigned shift) {
  unsigned x[8];
#pragma unroll
  for (int n = 0; n < 4; ++n) x[n] = low.word[n], x[n + 4] = high.word[n];
#pragma unroll
  for (int n = 0; n < 4 + (kAccess < 8) + (kAccess < 4); ++n) x[n] = shift & 8 ? x[n + 2] : x[n];
  if constexpr (kAccess < 8) {
#pragma unroll
    for (int n = 0; n < 4 + (kAccess < 4); ++n) x[n] = shift & 4 ? x[n + 1] : x[n];
  }
  Unit unit;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const unsigned long long two = static_cast<unsigned long long>(x[n + 1]) << 32 | x[n];
    unit.word[n] = kAccess < 4 ? static_cast<unsigned>(two >> (shift & 2) * 8) : x[n];
  }
  return unit;
}

// Zeros from byte `valid`, an even one, on.
__device__ __forceinline__ void cut_unit(Unit& unit, int valid) {
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    if (valid < 4 * n + 4) unit.word[n] &= 0xffffu;
    if (valid < 4 * n + 2) unit.word[n] = 0;
  }
}

// Copies `kRows` rows of `kColumns` elements, which begin at multiples of kAccess bytes, by `kThreads` threads; next(row, &address)
// as in copy_rows.
template <int kRows, int kColumns, int kSlabs, int kThreads, int kAccess, class Next>
__device__ __forceinline__ void copy_loose_rows(unsigned target, unsigned thread, const MemorySpan& span, Next&& next) {
  constexpr int kLanes = 8, kStep = kThreads / kLanes, kPasses = kRows / kStep, kBytes = 2 * kColumns;
  constexpr int kUnits =
      kSlabs + (kBytes + 16 - kAccess > kSlabs * 128 ? 1 : 0);  // of a lane; a last one is the first lane's alone
  constexpr int kMost = kUnits >= 4 ? 2 : 8 / kUnits, kAtOnce = kPasses < kMost ? kPasses : kMost;
  static_assert(kRows % kStep == 0, "all threads have rows in all passes");
  const int lane = static_cast<int>(thread % kLanes), neighbour = static_cast<int>((thread & 24) + (thread + 1) % kLanes);
#pragma unroll 1
  for (int first = 0; first < kPasses; first += kAtOnce) {
    Unit units[kAtOnce][kUnits];
    unsigned shift[kAtOnce];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const char* address = nullptr;
      const bool is_there = next(min(first + n, kPasses - 1) * kStep + static_cast<int>(thread / kLanes), address);
      shift[n] = static_cast<unsigned>(reinterpret_cast<unsigned long long>(address) % 16);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int at = (u * kLanes + lane) * 16;
        const bool is_needed = is_there && at < static_cast<int>(shift[n]) + kBytes;
        units[n][u] = is_needed ? load_unit(address - shift[n] + at, span) : Unit{};
      }
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int row = min(first + n, kPasses - 1) * kStep + static_cast<int>(thread / kLanes);
      const unsigned to = target + chunk_offset<128>(row, lane);
#pragma unroll
      for (int slab = 0; slab < kSlabs; ++slab) {
        // What a lane lacks is the next one's, or the first one's of the next slab.
        Unit high{};
#pragma unroll
        for (int w = 0; w < kReachedWords<kAccess>; ++w) {
          const unsigned given =
              slab + 1 < kUnits && lane == 0 ? units[n][min(slab + 1, kUnits - 1)].word[w] : units[n][slab].word[w];
          high.word[w] = __shfl_sync(0xffffffffu, given, neighbour);
        }
        Unit chunk = shift_units<kAccess>(units[n][slab], high, shift[n]);
        if (slab * 128 + 128 > kBytes) cut_unit(chunk, kBytes - slab * 128 - lane * 16);
        store_shared4(to + slab * kRows * 128, static_cast<int>(chunk.word[0]), static_cast<int>(chunk.word[1]),
                      static_cast<int>(chunk.word[2]), static_cast<int>(chunk.word[3]));
      }
    }
  }
}

}  // namespace flash_attn::cuda
