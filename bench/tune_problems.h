// Problems to tune by: drawn at random, sorted by the class that the library puts them in, with data on the GPU. No length is any
// benchmark's.
#pragma once

#include "tools/flash-attn/engine.h"

#include <map>
#include <string>
#include <vector>

namespace flash_attn::bench {

struct TuneProblem {
  fa_attention_desc desc;
  double flops = 0;
  std::string text;  // for a person
};

// Some problems of each class, the class being as the library writes it. The same for the same dims and seed.
std::map<std::string, std::vector<TuneProblem>> draw_problems(const std::vector<int64_t>& dims, uint64_t seed);

// Memory that serves any of them, one at a time: random q, k and v, tables, outputs.
class TuneMemory {
 public:
  explicit TuneMemory(tool::Gpu* gpu);
  fa_attention_args args_of(const fa_attention_desc& desc) const;
  // The first elements of o after a run.
  std::vector<float> read_o(const fa_attention_desc& desc) const;

 private:
  tool::Gpu* gpu_;
  void *values_, *o_, *lse_;
};

}  // namespace flash_attn::bench
