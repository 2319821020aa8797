// Emulated: warp groups. Products happen as late as they may: when their thread waits for their group, from what shared memory
// holds then, so that what was given away too early shows, and until then their accumulators hold NaN. First operands in registers
// are taken at the issue. A wait brings the four warps of a group together, as the hardware's collective does.
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
  emulated::sync_group();  // others go on: whoever may overwrite the operands does
  for (int round = 0; round < 4; ++round) emulated::yield_block();
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
inline void hold(float) {}
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
  static float element(unsigned address) {
    unsigned short x;
    std::memcpy(&x, shared_bytes_at(emulated::swizzled(address), 2), 2);
    return widen<kType>(x);
  }
  static unsigned start(unsigned low) { return (low & 0x3FFF) << 4; }
  static unsigned leading(unsigned low) { return (low >> 16 & 0x3FFF) << 4; }
  static unsigned stride(unsigned high) { return (high & 0x3FFF) << 4; }
  static void check(unsigned high) {
    if (high >> 30 != 1) emulated::fail("not the 128-byte swizzle", high);
  }
  static void multiply(float (&d)[kColumns / 2], const float (&a)[2][16], const float* b, bool accumulates) {
    const unsigned column = emulated::this_lane() % 4 * 2;
    for (int j = 0; j < kColumns / 8; ++j) {
      for (int e = 0; e < 2; ++e) {
        for (int r = 0; r < 2; ++r) {
          float& x = d[4 * j + 2 * r + e];
          float sum = accumulates ? x : 0.f;
          for (int k = 0; k < 16; ++k) sum += a[r][k] * b[(8 * j + column + e) * 16 + k];
          x = sum;
        }
      }
    }
  }
  // Adds `work` to what this thread's open group will do.
  template <class Work>
  static void issue(float (&d)[kColumns / 2], bool accumulates, Work&& work) {
    if (!accumulates) std::fill(d, d + kColumns / 2, NAN);
    emulated::this_thread().products.emplace_back(work);
  }
  static void ss(float (&d)[kColumns / 2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high, int accumulates) {
    check(a_high), check(b_high);
    issue(d, accumulates, [&d, a_low, a_high, b_low, b_high, accumulates] { do_ss(d, a_low, a_high, b_low, b_high, accumulates); });
  }
  static void do_ss(float (&d)[kColumns / 2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high, int accumulates) {
    const unsigned row = threadIdx.x % 128 / 32 * 16 + emulated::this_lane() / 4;
    float a[2][16], b[kColumns * 16];
    for (unsigned k = 0; k < 16; ++k) {
      for (unsigned r = 0; r < 2; ++r) {
        const unsigned m = row + 8 * r;
        a[r][k] = element(start(a_low) + m / 8 * stride(a_high) + m % 8 * 128 + k * 2);
      }
      for (unsigned n = 0; n < kColumns; ++n) b[n * 16 + k] = element(start(b_low) + n / 8 * stride(b_high) + n % 8 * 128 + k * 2);
    }
    multiply(d, a, b, accumulates != 0);
  }
  static void ss_start(float (&d)[kColumns / 2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high) {
    ss(d, a_low, a_high, b_low, b_high, 0);
  }
  static void ss_columns(float (&d)[kColumns / 2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high,
                         int accumulates) {
    check(a_high), check(b_high);
    issue(d, accumulates,
          [&d, a_low, a_high, b_low, b_high, accumulates] { do_ss_columns(d, a_low, a_high, b_low, b_high, accumulates); });
  }
  static void do_ss_columns(float (&d)[kColumns / 2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high,
                            int accumulates) {
    const unsigned row = threadIdx.x % 128 / 32 * 16 + emulated::this_lane() / 4;
    float a[2][16], b[kColumns * 16];
    for (unsigned k = 0; k < 16; ++k) {
      for (unsigned r = 0; r < 2; ++r) {
        const unsigned m = row + 8 * r;
        a[r][k] = element(start(a_low) + m / 8 * stride(a_high) + m % 8 * 128 + k * 2);
      }
      for (unsigned n = 0; n < kColumns; ++n)
        b[n * 16 + k] = element(start(b_low) + n / 64 * leading(b_low) + k / 8 * stride(b_high) + k % 8 * 128 + n % 64 * 2);
    }
    multiply(d, a, b, accumulates != 0);
  }
  static void ss_columns_start(float (&d)[kColumns / 2], unsigned a_low, unsigned a_high, unsigned b_low, unsigned b_high) {
    ss_columns(d, a_low, a_high, b_low, b_high, 0);
  }
  static void rs(float (&d)[kColumns / 2], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b_low, unsigned b_high,
                 int accumulates) {
    check(b_high);
    const unsigned lane = emulated::this_lane();
    const unsigned mine[4] = {a0, a1, a2, a3};
    std::memcpy(emulated::lane_slot(lane), mine, sizeof(mine));
    emulated::sync_warp();
    struct FirstOperand {
      float x[2][16];
    } a;
    for (unsigned k = 0; k < 16; ++k) {
      const auto* const theirs = static_cast<unsigned*>(emulated::lane_slot(lane / 4 * 4 + k % 8 / 2));
      for (unsigned r = 0; r < 2; ++r)
        a.x[r][k] = widen<kType>(static_cast<unsigned short>(theirs[k / 8 * 2 + r] >> (16 * (k % 2))));
    }
    emulated::sync_warp();
    issue(d, accumulates, [&d, a, b_low, b_high, accumulates] {
      float b[kColumns * 16];
      for (unsigned k = 0; k < 16; ++k)
        for (unsigned n = 0; n < kColumns; ++n)
          b[n * 16 + k] = element(start(b_low) + n / 64 * leading(b_low) + k / 8 * stride(b_high) + k % 8 * 128 + n % 64 * 2);
      multiply(d, a.x, b, accumulates != 0);
    });
  }
};

}  // namespace flash_attn::cuda
