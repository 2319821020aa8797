// NaN, infinities and huge numbers: what is visible must come through, what is not must stay out.
#include "tests/oracle/values.h"
#include "tests/support/check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace flash_attn::test {
namespace {

constexpr int64_t kRows = 21, kKeys = 70, kDim = 32;

const CaseSpec& base() {
  static const CaseSpec spec = {.name = "special", .s_q = kRows, .s_k = kKeys, .h_q = 2, .h_k = 1, .d = kDim};
  return spec;
}

// Writable copies of q, k, v of a one-request dense problem, in place of the builder's.
class Edited {
 public:
  Edited(const CaseSpec& spec, fa_dtype dtype) : problem_(spec, dtype, 9) {
    copy(problem_.args().q, spec.s_q * spec.h_q * spec.d, &q_, &problem_.mutable_args().q);
    copy(problem_.args().k, spec.s_k * spec.h_k * spec.d, &k_, &problem_.mutable_args().k);
    copy(problem_.args().v, spec.s_k * spec.h_k * spec.value_dim(), &v_, &problem_.mutable_args().v);
  }
  void set_q(int64_t index, float value) { oracle::store_value(q_.data(), problem_.dtype(), index, value); }
  void set_k(int64_t index, float value) { oracle::store_value(k_.data(), problem_.dtype(), index, value); }
  void set_v(int64_t index, float value) { oracle::store_value(v_.data(), problem_.dtype(), index, value); }
  TestProblem& problem() { return problem_; }

  // The oracle turns the same NaN and infinities into what must come out.
  std::string check() {
    const Reference reference = make_reference(problem_);
    std::string faults;
    for (const Choice& choice : all_choices()) {
      const RunResult result = run_problem(&problem_, choice, reference.rows);
      if (result.status == FA_STATUS_UNSUPPORTED) continue;
      const std::string fault = result.ok() ? compare(problem_, reference, result.outputs) : result.text();
      if (!fault.empty()) faults += choice.text() + ": " + fault + "\n";
    }
    return faults;
  }

 private:
  void copy(const void* from, int64_t elements, std::vector<char>* to, const void** pointer) {
    to->resize(static_cast<size_t>(elements * element_bytes(problem_.dtype())));
    std::memcpy(to->data(), from, to->size());
    *pointer = to->data();
  }

  TestProblem problem_;
  std::vector<char> q_, k_, v_;
};

class SpecialValues : public ::testing::TestWithParam<fa_dtype> {};

TEST_P(SpecialValues, NanInQueryStaysInItsRow) {
  Edited edited(base(), GetParam());
  edited.set_q(7 * 2 * kDim + 3, NAN);
  EXPECT_EQ(edited.check(), "");
}

TEST_P(SpecialValues, NanInVisibleKey) {
  for (const int64_t key : {int64_t{0}, int64_t{33}, kKeys - 1}) {
    Edited edited(base(), GetParam());
    edited.set_k(key * kDim + 5, NAN);
    EXPECT_EQ(edited.check(), "");
  }
}

TEST_P(SpecialValues, NanInVisibleValueStaysInItsColumn) {
  Edited edited(base(), GetParam());
  edited.set_v(40 * kDim + 11, NAN);
  EXPECT_EQ(edited.check(), "");
}

TEST_P(SpecialValues, OneRowByManyKeys) {
  CaseSpec spec = base();
  spec.s_q = 1;
  spec.s_k = 900;
  for (const int64_t key : {0, 450, 899}) {
    Edited edited(spec, GetParam());
    edited.set_k(key * kDim, NAN);
    EXPECT_EQ(edited.check(), "");
    Edited value(spec, GetParam());
    value.set_v(key * kDim + 31, NAN);
    EXPECT_EQ(value.check(), "");
  }
}

TEST_P(SpecialValues, InfiniteScores) {
  // q of row 3 is 0 but for one infinite element: scores are +inf or -inf by the sign of k there; +inf makes the row NaN.
  Edited edited(base(), GetParam());
  for (int64_t c = 0; c < kDim; ++c) edited.set_q(3 * 2 * kDim + c, c == 4 ? INFINITY : 0.0f);
  EXPECT_EQ(edited.check(), "");
  // All of them -inf: no key counts.
  Edited negative(base(), GetParam());
  for (int64_t c = 0; c < kDim; ++c) negative.set_q(3 * 2 * kDim + c, c == 4 ? -INFINITY : 0.0f);
  for (int64_t j = 0; j < kKeys; ++j) negative.set_k(j * kDim + 4, 1.5f);
  EXPECT_EQ(negative.check(), "");
}

TEST_P(SpecialValues, MinusInfinityBias) {
  CaseSpec spec = base();
  spec.bias = {.present = true, .minus_infinity = 0.9f};
  EXPECT_EQ(check_case(spec, GetParam(), 4), "");
  spec.bias.minus_infinity = 1.0f;
  EXPECT_EQ(check_case(spec, GetParam(), 5), "");
  spec.sink = true;
  EXPECT_EQ(check_case(spec, GetParam(), 6), "");
  spec.s_q = 1;
  spec.s_k = 1500;
  spec.bias.minus_infinity = 0.995f;
  spec.num_splits = 7;
  EXPECT_EQ(check_case(spec, GetParam(), 7), "");
}

TEST_P(SpecialValues, NanBias) {
  CaseSpec spec = base();
  spec.bias = {.present = true, .as_f32 = true};
  TestProblem problem(spec, GetParam(), 8);
  std::vector<float> bias(static_cast<size_t>(2 * kRows * kKeys), 0.5f);
  bias[5 * kKeys + 17] = NAN;
  problem.mutable_args().bias = bias.data();
  const Reference reference = make_reference(problem);
  for (const Choice& choice : all_choices()) {
    const RunResult result = run_problem(&problem, choice, reference.rows);
    if (result.status == FA_STATUS_UNSUPPORTED) continue;
    ASSERT_TRUE(result.ok()) << result.text();
    EXPECT_EQ(compare(problem, reference, result.outputs), "") << choice.text();
    EXPECT_TRUE(std::isnan(result.outputs.lse[5])) << choice.text();
  }
}

// Logits of about +-1e5, and rows whose largest logit is hugely negative. There are enough rows for the plain model to meet ties.
TEST_P(SpecialValues, LargeLogits) {
  CaseSpec spec = base();
  spec.s_q = 150;
  spec.s_k = 400;
  spec.magnitude = 4000.0f;
  spec.scale = 4.0f;
  EXPECT_EQ(check_case(spec, GetParam(), 3), "");
  spec.sink = true;
  EXPECT_EQ(check_case(spec, GetParam(), 4), "");
  Edited negative(base(), GetParam());
  for (int64_t c = 0; c < kDim; ++c) negative.set_q(2 * 2 * kDim + c, c == 0 ? -4000.0f : 0.0f);
  for (int64_t j = 0; j < kKeys; ++j) negative.set_k(j * kDim, static_cast<float>(100 + j % 4));
  EXPECT_EQ(negative.check(), "");
}

// Where one key takes all the weight, o is that key's value but for the rounding of one weight and of o, however large the logit.
TEST_P(SpecialValues, OneDominantKey) {
  const double unit = GetParam() == FA_DTYPE_F32 ? 1e-6 : (GetParam() == FA_DTYPE_BF16 ? 0x1p-8 : 0x1p-11);
  for (const float logit : {50.0f, 3000.0f, 30000.0f}) {
    Edited edited(base(), GetParam());
    for (int64_t row = 0; row < 2 * kRows; ++row) {
      for (int64_t c = 0; c < kDim; ++c) edited.set_q(row * kDim + c, c == 0 ? logit : 0.0f);
    }
    for (int64_t j = 0; j < kKeys; ++j) edited.set_k(j * kDim, j == 41 ? 6.0f : -6.0f + 0.1f * static_cast<float>(j % 7));
    TestProblem& problem = edited.problem();
    const Reference reference = make_reference(problem);
    for (const Choice& choice : all_choices()) {
      const RunResult result = run_problem(&problem, choice, reference.rows);
      if (result.status == FA_STATUS_UNSUPPORTED) continue;
      ASSERT_TRUE(result.ok()) << result.text();
      for (size_t n = 0; n < result.outputs.o.size(); ++n) {
        const double expected = reference.exact.o[n];
        ASSERT_NEAR(result.outputs.o[n], expected, 2.01 * unit * std::fabs(expected)) << choice.text() << " logit " << logit;
      }
    }
  }
}

// Thousands of keys with the very same large score: the maximum stands still, so nothing may drift from block to block.
TEST_P(SpecialValues, SteadyMaximum) {
  for (const int64_t rows : {int64_t{1}, int64_t{40}}) {
    CaseSpec spec = {.name = "steady", .s_q = rows, .s_k = 6000, .h_q = 2, .h_k = 1, .d = kDim, .d_v = 8};
    Edited edited(spec, GetParam());
    for (int64_t row = 0; row < 2 * rows; ++row) {
      for (int64_t c = 0; c < kDim; ++c) edited.set_q(row * kDim + c, c == 0 ? 3000.0f + 517.0f * static_cast<float>(row) : 0.0f);
    }
    for (int64_t j = 0; j < spec.s_k; ++j) {
      edited.set_k(j * kDim, 1.3f);
      for (int64_t c = 0; c < 8; ++c) edited.set_v(j * 8 + c, static_cast<float>(j) / 3000.0f - 1.0f);
    }
    EXPECT_EQ(edited.check(), "");
  }
}

// Values at the end of the type's range come through without overflow on the way.
TEST_P(SpecialValues, LargeValues) {
  Edited edited(base(), GetParam());
  const float large = GetParam() == FA_DTYPE_F16 ? 60000.0f : 1e30f;
  for (int64_t j = 0; j < kKeys; ++j) edited.set_v(j * kDim + 2, large);
  TestProblem& problem = edited.problem();
  const Reference reference = make_reference(problem);
  for (const Choice& choice : all_choices()) {
    const RunResult result = run_problem(&problem, choice, reference.rows);
    if (result.status == FA_STATUS_UNSUPPORTED) continue;
    ASSERT_TRUE(result.ok()) << result.text();
    for (size_t row = 0; row < reference.rows.size(); ++row) {
      ASSERT_NEAR(result.outputs.o[row * kDim + 2] / large, 1.0f, 0.01f) << choice.text();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, SpecialValues, ::testing::Values(FA_DTYPE_F32, FA_DTYPE_BF16, FA_DTYPE_F16),
                         [](const ::testing::TestParamInfo<fa_dtype>& dtype) { return std::string(dtype_text(dtype.param)); });

}  // namespace
}  // namespace flash_attn::test
