// The benchmark's rows on the planner's own choice, a sample of output rows compared: what is timed is also right.
#include "tests/support/backward_check.h"
#include "tests/support/check.h"

#include <gtest/gtest.h>

namespace flash_attn::test {
namespace {

constexpr int64_t kSampledRows = 8;

TEST(BenchCases, SampledRowsAgreeWithOracle) {
  const double most_flops = static_cast<double>(environment_number("FLASH_ATTN_TEST_GFLOP", 12)) * 1e9;
  int checked = 0;
  for (const CaseSpec& spec : all_cases()) {
    if (!(spec.labels & kBench) || flops(spec) > most_flops) continue;
    CheckOptions options;
    options.choices = {Choice()};
    options.sampled_rows = kSampledRows;
    EXPECT_EQ(check_case(spec, 3, options), "");
    ++checked;
  }
  EXPECT_GT(checked, 10);
}

// A backward's reference needs all rows, so that only the smaller cases are within reach.
TEST(BenchCases, GradientsAgreeWithOracle) {
  const double most_flops = static_cast<double>(environment_number("FLASH_ATTN_TEST_GFLOP", 12)) * 1e9 / 6;
  int checked = 0;
  for (const CaseSpec& spec : backward_cases()) {
    if (!(spec.labels & kBench) || flops(spec) > most_flops) continue;
    for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16}) {
      EXPECT_EQ(check_backward(spec, dtype, 3, {{"best", [](BackwardProblem* problem) { return run_backward(problem, {}); }}}), "");
    }
    ++checked;
  }
  EXPECT_GT(checked, 2);
}

}  // namespace
}  // namespace flash_attn::test
