// 2^x by polynomials against the host library.
#include "math/exp2.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace flash_attn {
namespace {

template <int kDegree>
double largest_error() {
  double largest = 0;
  for (int n = -126 * 4096; n <= 127 * 4096; ++n) {
    const float x = static_cast<float>(n) / 4096.0f;
    const double exact = std::exp2(static_cast<double>(x));
    largest = std::max(largest, std::abs(static_cast<double>(exp2_polynomial<kDegree>(x)) - exact) / exact);
  }
  return largest;
}

TEST(Exp2, RelativeError) {
  EXPECT_LT(largest_error<3>(), 1.1e-4);
  EXPECT_LT(largest_error<4>(), 3e-6);
}

TEST(Exp2, WholeNumbersAreExact) {
  for (int n = -126; n <= 127; ++n) {
    EXPECT_EQ(exp2_polynomial<3>(static_cast<float>(n)), std::ldexp(1.0f, n));
    EXPECT_EQ(exp2_polynomial<4>(static_cast<float>(n)), std::ldexp(1.0f, n));
  }
  EXPECT_EQ(exp2_polynomial<3>(-127.0f), 0.0f);
  EXPECT_EQ(exp2_polynomial<4>(-127.0f), 0.0f);
}

TEST(Exp2, SmallestAreNotNegative) {
  for (float x = -127.0f; x < -125.0f; x += 0x1p-10f) {
    EXPECT_GE(exp2_polynomial<3>(x), 0.0f);
    EXPECT_LE(exp2_polynomial<3>(x), 0x1p-124f);
  }
}

// A score that is not a number must not become an ordinary weight.
TEST(Exp2, NotANumberIsSeen) {
  EXPECT_FALSE(exp2_polynomial<3>(std::numeric_limits<float>::quiet_NaN()) < 1e38f);
  EXPECT_FALSE(exp2_polynomial<4>(std::numeric_limits<float>::quiet_NaN()) < 1e38f);
}

}  // namespace
}  // namespace flash_attn
