// Emulated: warp groups. Products happen as late as they may: when their thread waits for their group. Until then their
// accumulators hold NaN, and what they read of shared memory must stay as it was at the issue. First operands in registers are
// taken there. A wait brings the four warps of a group together, as the hardware's collective does.
#pragma once

#include "cuda/kernels/ptx/async_copy.cuh"
#include "cuda/kernels/ptx/convert.cuh"
#include "emulated_map.h"

namespace flash_attn::cuda {

inline void wgmma_fence() {}
inline void wgmma_commit() { emulated::this_thread().products.emplace_back(); }
template <int kPending>
void wgmma_wait() {
  auto& products = emulated::this_thread().products;
  if (!products.empty() && products.back())
    emulated::fail("a product was waited for before its group was closed, thread", threadIdx.x);
  // Others go on, now and then by far: one warp group may be steps ahead of another, and operands be overwritten.
  emulated::sync_group();
  const unsigned mixed = (emulated::this_thread().waits++ * 4 + threadIdx.x / 128 + blockIdx.x * 1021) * 0x9E3779B1u >> 24;
  for (unsigned round = 0; round < (mixed % 16 == 0 ? 1500u : 4u); ++round) emulated::yield_block();
  int closed = 0;
  for (const auto& product : products) closed += product ? 0 : 1;
  size_t done = 0;
  while (closed > kPending) {
    if (products[done])
      products[done]();
    else
      --closed;
    ++done;
  }
  products.erase(products.begin(), products.begin() + static_cast<std::ptrdiff_t>(done));
  emulated::sync_group();
}
template <class T, int kCount>
void pin(T (&)[kCount]) {}
template <int kRegisters>
void grow_registers() {}
template <int kRegisters>
void shrink_registers() {}

inline void named_sync(int barrier, int threads) { emulated::named_barrier(barrier, threads, true); }
inline void named_arrive(int barrier, int threads) { emulated::named_barrier(barrier, threads, false); }

struct StoredMatrices {
  unsigned address, x[4];
};
inline void store_matrix4(unsigned address, unsigned a, unsigned b, unsigned c, unsigned d) {
  const unsigned lane = emulated::this_lane();
  const StoredMatrices mine{address, {a, b, c, d}};
  std::memcpy(emulated::lane_slot(lane), &mine, sizeof(mine));
  emulated::sync_warp();
  for (unsigned n = 0; n < 4; ++n) {
    const unsigned line = static_cast<StoredMatrices*>(emulated::lane_slot(n * 8 + lane / 4))->address;
    std::memcpy(shared_bytes_at(line, 16) + lane % 4 * 4, &mine.x[n], 4);
  }
  emulated::sync_warp();
}

inline void store_shared4(unsigned address, int x, int y, int z, int w) {
  const int four[4] = {x, y, z, w};
  std::memcpy(shared_bytes_at(address, 16), four, 16);
}
inline void load_shared4(unsigned address, int& x, int& y, int& z, int& w) {
  const uint4 four = load_shared<uint4>(address);
  x = static_cast<int>(four.x), y = static_cast<int>(four.y), z = static_cast<int>(four.z), w = static_cast<int>(four.w);
}
inline int load_shared_int(unsigned address) { return load_shared<int>(address); }

// m64 n<columns> k16 of the warp group that this thread is in; what the generated Wgmma<columns> does.
template <int kColumns, DType kType>
struct EmulatedWgmma {
  static unsigned short word(unsigned address) {
    unsigned short x;
    std::memcpy(&x, shared_bytes_at(emulated::swizzled(address), 2), 2);
    return x;
  }
  static unsigned start(unsigned low) { return (low & 0x3FFF) << 4; }
  static unsigned leading(unsigned low) { return (low >> 16 & 0x3FFF) << 4; }
  static unsigned stride(unsigned high) { return (high & 0x3FFF) << 4; }
  // In shared memory, by a descriptor's words: element k of row or column n.
  struct Operand {
    unsigned low, high;
    bool has_depth_contiguous;
    unsigned short at(unsigned n, unsigned k) const {
      if (has_depth_contiguous) return word(start(low) + n / 8 * stride(high) + n % 8 * 128 + k * 2);
      return word(start(low) + n / 64 * leading(low) + k / 8 * stride(high) + k % 8 * 128 + n % 64 * 2);
    }
    uint64_t digest(unsigned first, unsigned count) const {
      uint64_t sum = 0;
      for (unsigned n = first; n < first + count; ++n)
        for (unsigned k = 0; k < 16; ++k) sum = (sum ^ at(n, k)) * 0x100000001B3u;
      return sum;
    }
  };
  struct Rows {
    float x[2][16];
  };

  static Operand operand(unsigned low, unsigned high, bool has_depth_contiguous) {
    if (high >> 30 != 1) emulated::fail("not the 128-byte swizzle", high);
    return {low, high, has_depth_contiguous};
  }
  static unsigned warp_row() { return threadIdx.x % 128 / 32 * 16; }

  static void multiply(float (&d)[kColumns / 2], const Rows& a, const Operand& from, bool accumulates) {
    float b[kColumns * 16];
    for (unsigned n = 0; n < kColumns; ++n)
      for (unsigned k = 0; k < 16; ++k) b[n * 16 + k] = widen<kType>(from.at(n, k));
    const unsigned column = emulated::this_lane() % 4 * 2;
    for (int j = 0; j < kColumns / 8; ++j) {
      for (int e = 0; e < 2; ++e) {
        for (int r = 0; r < 2; ++r) {
          float& x = d[4 * j + 2 * r + e];
          float sum = accumulates ? x : 0.f;
          for (int k = 0; k < 16; ++k) sum += a.x[r][k] * b[(8 * j + column + e) * 16 + k];
          x = sum;
        }
      }
    }
  }

  // Adds `work` to what this thread's open group will do. The first lane of each warp looks whether shared memory still holds then
  // what it did at the issue: neither may an operand come too late nor be overwritten too early.
  template <class Digest, class Work>
  static void issue(float (&d)[kColumns / 2], bool accumulates, Digest&& digest, Work&& work) {
    if (!accumulates) std::fill(d, d + kColumns / 2, NAN);
    const bool looks = emulated::this_lane() == 0;
    const uint64_t before = looks ? digest() : 0;
    emulated::this_thread().products.emplace_back([=] {
      if (looks && digest() != before) emulated::fail("an operand changed while a product read it, thread", threadIdx.x);
      work();
    });
  }

  static void issue_shared(float (&d)[kColumns / 2], const Operand& a, const Operand& b, bool accumulates) {
    issue(
        d, accumulates, [=] { return a.digest(warp_row(), 16) ^ b.digest(0, kColumns); },
        [&d, a, b, accumulates] {
          Rows rows;
          for (unsigned r = 0; r < 2; ++r)
            for (unsigned k = 0; k < 16; ++k) rows.x[r][k] = widen<kType>(a.at(warp_row() + emulated::this_lane() / 4 + 8 * r, k));
          multiply(d, rows, b, accumulates);
        });
  }
  static void ss(float (&d)[kColumns / 2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high, int accumulates) {
    issue_shared(d, operand(a_low, a_high, true), operand(b_low, b_high, true), accumulates != 0);
  }
  static void ss_start(float (&d)[kColumns / 2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high) {
    ss(d, a_low, a_high, b_low, b_high, 0);
  }
  static void ss_columns(float (&d)[kColumns / 2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high,
                         int accumulates) {
    issue_shared(d, operand(a_low, a_high, true), operand(b_low, b_high, false), accumulates != 0);
  }
  static void ss_columns_start(float (&d)[kColumns / 2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high) {
    ss_columns(d, a_low, a_high, b_low, b_high, 0);
  }
  static void rs(float (&d)[kColumns / 2], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b_low, unsigned b_high,
                 int accumulates) {
    const unsigned lane = emulated::this_lane();
    const unsigned mine[4] = {a0, a1, a2, a3};
    std::memcpy(emulated::lane_slot(lane), mine, sizeof(mine));
    emulated::sync_warp();
    Rows a;
    for (unsigned k = 0; k < 16; ++k) {
      const auto* const theirs = static_cast<unsigned*>(emulated::lane_slot(lane / 4 * 4 + k % 8 / 2));
      for (unsigned r = 0; r < 2; ++r)
        a.x[r][k] = widen<kType>(static_cast<unsigned short>(theirs[k / 8 * 2 + r] >> (16 * (k % 2))));
    }
    emulated::sync_warp();
    const Operand b = operand(b_low, b_high, false);
    const bool is_sum = accumulates != 0;
    issue(
        d, is_sum, [=] { return b.digest(0, kColumns); }, [&d, a, b, is_sum] { multiply(d, a, b, is_sum); });
  }
};

}  // namespace flash_attn::cuda
