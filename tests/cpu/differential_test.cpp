// Every test row of the case table, on every dtype, kernel and instruction set, against the oracle.
#include "tests/support/check.h"

#include <gtest/gtest.h>

namespace flash_attn::test {
namespace {

class Differential : public ::testing::TestWithParam<CaseSpec> {};

TEST_P(Differential, AgreesWithOracle) {
  EXPECT_EQ(check_case(GetParam(), 1), "");
  EXPECT_EQ(check_case(GetParam(), 2), "");
}

std::vector<CaseSpec> test_rows() {
  std::vector<CaseSpec> rows;
  for (const CaseSpec& spec : all_cases()) {
    if (spec.labels & kTest) rows.push_back(spec);
  }
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Table, Differential, ::testing::ValuesIn(test_rows()),
                         [](const ::testing::TestParamInfo<CaseSpec>& row) { return row.param.name; });

// The names are what other tests and the command line force by.
TEST(Names, InstructionSetsAndKernels) {
  ASSERT_FALSE(isa_names().empty());
  ASSERT_FALSE(kernel_names().empty());
  EXPECT_EQ(isa_names().back(), "baseline");
  EXPECT_EQ(fa_cpu_isa_name(-1), nullptr);
  EXPECT_EQ(fa_cpu_isa_name(1000), nullptr);
  EXPECT_EQ(fa_kernel_name(FA_DEVICE_CPU, -1), nullptr);
  EXPECT_EQ(fa_kernel_name(FA_DEVICE_CPU, 1000), nullptr);
}

// Without a forced name, the best instruction set is taken.
TEST(Names, BestInstructionSetIsTheDefault) {
  if (std::getenv("FLASH_ATTN_ISA") != nullptr) GTEST_SKIP() << "FLASH_ATTN_ISA replaces the best";
  TestProblem problem({.name = "default", .s_q = 4, .s_k = 8}, FA_DTYPE_F32, 1);
  const PlanHandle plan(problem.desc(), {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  const std::string name = fa_plan_kernel(plan.get());
  EXPECT_EQ(name.substr(name.rfind('/') + 1), isa_names().front());
}

}  // namespace
}  // namespace flash_attn::test
