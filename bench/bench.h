// `flash-attn bench`: the cases of tests/cases.h that carry the bench label, timed against the machine's own ceilings.
#pragma once

#include <string>
#include <vector>

namespace flash_attn::bench {

struct BenchOptions {
  std::string filter;                     // part of a case's name; empty: all
  std::vector<std::string> dtypes, isas;  // empty: all dtypes of the case; the best instruction set
  std::vector<int> threads;               // empty: the library's default
  double seconds = 0.3;                   // a case
  bool is_json = false, is_list = false;
  std::string plot;  // SVG file; empty: none
};

void run_bench(const BenchOptions& options);

}  // namespace flash_attn::bench
