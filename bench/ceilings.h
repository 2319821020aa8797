// What this machine can do at most: arithmetic rates and read bandwidth, measured by loops that do nothing else. Every share that
// the benchmark prints is a share of these. It knows nothing of the library.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace flash_attn::bench {

struct Ceilings {
  int threads = 1;
  double fma_f32 = 0;         // floating-point operations a second, fp32 multiply-add, widest vectors of the instruction set
  double dot_bf16 = 0;        // bf16 dot products into fp32 vectors; 0 if there are none
  double tile_bf16 = 0;       // AMX tiles; 0 if there are none
  double read_bandwidth = 0;  // bytes a second out of memory
};

// `isas` are the usable instruction sets by the library's names. `cache_bytes` is the last cache's size: the memory read is larger.
// Takes about two seconds.
Ceilings measure_ceilings(const std::vector<std::string>& isas, int threads, int64_t cache_bytes);

// The arithmetic ceiling of a type ("f32", "f16", "bf16") for kernels of an instruction set.
double compute_ceiling(const Ceilings& ceilings, const std::string& dtype, const std::string& isa);

}  // namespace flash_attn::bench
