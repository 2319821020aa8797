// The differential check: one problem against the oracle on every kernel and instruction set, each forced by name.
#pragma once

#include "tests/support/reference.h"
#include "tests/support/runner.h"

#include <string>
#include <vector>

namespace flash_attn::test {

struct CheckOptions {
  std::vector<Choice> choices = all_choices();
  int64_t sampled_rows = -1;  // rows compared; -1: all
  double o_tolerance = 0;     // replaces the one that is found for the case, where larger; see compare()
};

// How far o may be off: the rule's allowance, for small problems over several draws of their data.
double pooled_tolerance(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, const Reference& own);

// Empty if every choice either agrees with the oracle or refuses the case, and each instruction set has a kernel that serves it.
std::string check_case(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, const CheckOptions& options = {});

// All dtypes of the case; seeds derive from `seed`.
std::string check_case(const CaseSpec& spec, uint64_t seed, const CheckOptions& options = {});

// A number from the environment, so that long runs need no rebuild.
uint64_t environment_number(const char* name, uint64_t standard);

}  // namespace flash_attn::test
