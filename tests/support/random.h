// Random numbers of the tests: one 64-bit seed, printed with every failure, gives the whole problem again on any machine.
#pragma once

#include <cmath>
#include <cstdint>

namespace flash_attn::test {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // SplitMix64.
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  // In [0, count), in [low, high], in [0, 1).
  int64_t below(int64_t count) { return static_cast<int64_t>(next() % static_cast<uint64_t>(count)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  bool chance(double probability) { return uniform() < probability; }

  // About normal, mean 0 and variance 1: the sum of four uniforms. Bounded by 3.5, cheap, the same on every libm.
  float normal() {
    const uint64_t bits = next();
    double sum = -2.0;
    for (int part = 0; part < 4; ++part) sum += static_cast<double>((bits >> (16 * part)) & 0xFFFF) / 65536.0;
    return static_cast<float>(sum * 1.7320508);
  }

 private:
  uint64_t state_;
};

}  // namespace flash_attn::test
