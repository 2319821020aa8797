// `flash-attn bench --tune`: searches a kernel's schedules on the GPU at hand and writes the table that the planner ships with.
// What classes of problems there are and which schedules make a kernel, the library says; this knows the names of fields to try.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace flash_attn::bench {

struct TuneOptions {
  std::string device = "cuda", kernel = "sm90_fwd";
  std::string out;     // the table; empty: standard output
  std::string filter;  // part of a class's text
  std::vector<int64_t> dims = {64, 96, 128, 192, 256};
  double most_seconds = 3600;  // no class is begun after these
};

void run_tune(const TuneOptions& options);

}  // namespace flash_attn::bench
