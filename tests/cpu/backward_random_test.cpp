// Random combinations of a backward's features. FLASH_ATTN_TEST_SEED starts elsewhere, FLASH_ATTN_TEST_ROUNDS runs longer; a
// failure prints the round's own seed.
#include "tests/support/backward_check.h"
#include "tests/support/check.h"
#include "tests/support/random_case.h"

#include <gtest/gtest.h>

#include <cstdio>

namespace flash_attn::test {
namespace {

TEST(BackwardRandom, AgreesWithOracle) {
  const uint64_t first = environment_number("FLASH_ATTN_TEST_SEED", 20260101);
  const uint64_t rounds = environment_number("FLASH_ATTN_TEST_ROUNDS", 200);
  std::printf("FLASH_ATTN_TEST_SEED=%llu FLASH_ATTN_TEST_ROUNDS=%llu\n", static_cast<unsigned long long>(first),
              static_cast<unsigned long long>(rounds));
  int failures = 0;
  for (uint64_t seed = first; seed < first + rounds && failures < 10; ++seed) {
    Random random(seed);
    const CaseSpec spec = random_backward_case(&random);
    const std::string faults = check_backward(spec, dtype_list(kAllDTypes)[random.below(3)], seed, cpu_runners());
    EXPECT_EQ(faults, "") << "again with FLASH_ATTN_TEST_SEED=" << seed << " FLASH_ATTN_TEST_ROUNDS=1";
    if (!faults.empty()) ++failures;
  }
}

}  // namespace
}  // namespace flash_attn::test
