// What a problem's outputs must be, and how far off they may be: the fp64 oracle, the plain model, and the tolerance rule of
// docs/design.md ("Precision").
#pragma once

#include "tests/support/problem_builder.h"

#include <string>
#include <vector>

namespace flash_attn::test {

struct Reference {
  std::vector<oracle::RowId> rows;
  oracle::Result exact, plain;
  double o_tolerance = 0;  // 2 max|plain err| + 1e-5
};

// Of all live rows, or of about `count` sampled ones.
Reference make_reference(const TestProblem& problem, int64_t count = -1);

// Empty if the outputs (of the reference's rows) obey the rule; otherwise one line with the worst element and the problem's text.
// `o_tolerance` replaces the reference's own where it is larger: for problems so small that the plain model's error is luck.
std::string compare(const TestProblem& problem, const Reference& reference, const Outputs& outputs, double o_tolerance = 0);

// Empty if bitwise equal (every NaN equals every other); otherwise the first difference.
std::string compare_bitwise(const Outputs& a, const Outputs& b);

// The largest error of the outputs, for reports.
double max_o_error(const Reference& reference, const Outputs& outputs);

}  // namespace flash_attn::test
