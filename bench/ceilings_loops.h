// The inner loops of ceilings.cpp, one set for each architecture. A loop runs `rounds` rounds and returns the floating-point
// operations done; the empty asm statements hide the chains' first values and use their last ones, so that no chain can be dropped
// or shared.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace flash_attn::bench {

// 16 independent chains hide the latency of two FMA ports.
inline constexpr int kChains = 16;

#if defined(__x86_64__)

__attribute__((target("avx512f"), noinline)) inline double fma_loop_avx512(int64_t rounds) {
  __m512 sum[kChains], factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(1e-3f);
  for (auto& chain : sum) {
    __m512 first = term;
    __asm__ volatile("" : "+v"(first));
    chain = first;
  }
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int chain = 0; chain < kChains; ++chain) {
      sum[chain] = _mm512_fmadd_ps(sum[chain], factor, term);
    }
  }
  __m512 total = sum[0];
  for (const auto& chain : sum) total += chain;
  __asm__ volatile("" : : "v"(total));
  return 2.0 * 16 * kChains * static_cast<double>(rounds);
}

// AVX2 has 16 registers: 12 chains, one factor, one term.
__attribute__((target("avx2,fma"), noinline)) inline double fma_loop_avx2(int64_t rounds) {
  constexpr int kFewer = 12;
  __m256 sum[kFewer], factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(1e-3f);
  for (auto& chain : sum) {
    __m256 first = term;
    __asm__ volatile("" : "+x"(first));
    chain = first;
  }
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kFewer; ++chain) {
      sum[chain] = _mm256_fmadd_ps(sum[chain], factor, term);
    }
  }
  __m256 total = sum[0];
  for (const auto& chain : sum) total += chain;
  __asm__ volatile("" : : "x"(total));
  return 2.0 * 8 * kFewer * static_cast<double>(rounds);
}

__attribute__((target("avx512f,avx512bf16"), noinline)) inline double dot_loop_avx512(int64_t rounds) {
  const __m512i ones = _mm512_set1_epi16(0x3C00);
  const auto a = reinterpret_cast<__m512bh>(ones);
  __m512 sum[kChains];
  for (auto& chain : sum) {
    __m512 first = _mm512_setzero_ps();
    __asm__ volatile("" : "+v"(first));
    chain = first;
  }
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int chain = 0; chain < kChains; ++chain) {
      sum[chain] = _mm512_dpbf16_ps(sum[chain], a, a);
    }
  }
  __m512 total = sum[0];
  for (const auto& chain : sum) total += chain;
  __asm__ volatile("" : : "v"(total));
  return 4.0 * 16 * kChains * static_cast<double>(rounds);
}

// Four accumulating tiles, 2x2, as in a matrix product. The caller has seen to it that the process may use tiles.
__attribute__((target("amx-tile,amx-bf16"), noinline)) inline double tile_loop_amx(int64_t rounds) {
  struct alignas(64) TileConfig {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  const TileConfig config;
  alignas(64) static const uint8_t kZeros[1024] = {};
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, kZeros, 64);
  _tile_loadd(5, kZeros, 64);
  _tile_loadd(6, kZeros, 64);
  _tile_loadd(7, kZeros, 64);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 4.0 * 2 * 16 * 16 * 32 * static_cast<double>(rounds);
}

#elif defined(__aarch64__)

inline double fma_loop_neon(int64_t rounds) {
  float32x4_t sum[kChains], factor = vdupq_n_f32(0.999f), term = vdupq_n_f32(1e-3f);
  for (auto& chain : sum) {
    float32x4_t first = term;
    __asm__ volatile("" : "+w"(first));
    chain = first;
  }
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int chain = 0; chain < kChains; ++chain) {
      sum[chain] = vfmaq_f32(term, sum[chain], factor);
    }
  }
  float32x4_t total = sum[0];
  for (const auto& chain : sum) total += chain;
  __asm__ volatile("" : : "w"(total));
  return 2.0 * 4 * kChains * static_cast<double>(rounds);
}

#endif

// Multiply and add of four floats, for machines with nothing better.
inline double fma_loop_portable(int64_t rounds) {
  typedef float Vector __attribute__((vector_size(16)));
  constexpr int kFewer = 12;
  Vector sum[kFewer];
  const Vector factor = {0.999f, 0.999f, 0.999f, 0.999f}, term = {1e-3f, 1e-3f, 1e-3f, 1e-3f};
  for (auto& chain : sum) {
    Vector first = term;
    __asm__ volatile("" : "+m"(first));
    chain = first;
  }
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kFewer; ++chain) {
      sum[chain] = sum[chain] * factor + term;
    }
  }
  Vector total = sum[0];
  for (const auto& chain : sum) total += chain;
  __asm__ volatile("" : : "m"(total));
  return 2.0 * 4 * kFewer * static_cast<double>(rounds);
}

}  // namespace flash_attn::bench
