// How benchmark results are shown: a table that grows line by line, JSON lines, an SVG of shares. It measures nothing.
#pragma once

#include "bench/ceilings.h"

#include <string>
#include <vector>

namespace flash_attn::bench {

struct Machine {
  std::string cpu, isa, library;
  int processors = 1;
  int64_t cache_bytes = 0;
};

struct Measurement {
  std::string name, dtype, isa, kernel;
  int threads = 1;
  double median_seconds = 0, best_seconds = 0;
  int rounds = 0;
  double flops = 0, bytes = 0;  // that the problem needs at least
  // The nearest ceiling and how much of it was reached. Reading counts only where the data fit in no cache.
  double share = 0;
  std::string bound;  // "compute" or "read"
};

std::string machine_text(const Machine& machine, const std::vector<Ceilings>& ceilings);
std::string table_head();
std::string table_line(const Measurement& result);
// Geometric mean of the shares of each type and bound.
std::string table_summary(const std::vector<Measurement>& results);

std::string machine_json(const Machine& machine, const std::vector<Ceilings>& ceilings);
std::string measurement_json(const Measurement& result);

std::string plot_svg(const Machine& machine, const std::vector<Measurement>& results);

}  // namespace flash_attn::bench
