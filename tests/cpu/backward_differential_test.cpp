// Every backward test row of the case table, on every dtype and instruction set, against the oracle's gradients.
#include "tests/support/backward_check.h"

#include <gtest/gtest.h>

#include <vector>

namespace flash_attn::test {
namespace {

class BackwardDifferential : public ::testing::TestWithParam<CaseSpec> {};

TEST_P(BackwardDifferential, AgreesWithOracle) {
  // f32, f16 and bf16 take seeds of both parities, and with them both sides that a guard page can be on.
  for (const fa_dtype dtype : dtype_list(GetParam().dtypes)) {
    EXPECT_EQ(check_backward(GetParam(), dtype, 10 + static_cast<uint64_t>(dtype), cpu_runners()), "");
  }
}

std::vector<CaseSpec> test_rows() {
  std::vector<CaseSpec> rows;
  for (const CaseSpec& spec : backward_cases()) {
    if (spec.labels & kTest) rows.push_back(spec);
  }
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Table, BackwardDifferential, ::testing::ValuesIn(test_rows()),
                         [](const ::testing::TestParamInfo<CaseSpec>& row) { return row.param.name; });

// Sizes where code changes its course.
TEST(BackwardEdges, Lengths) {
  for (const int64_t length : {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 511, 513}) {
    for (const int64_t other : {int64_t{1}, int64_t{17}, int64_t{70}}) {
      for (const bool by_keys : {false, true}) {
        CaseSpec spec = {.name = "lengths", .s_q = length, .s_k = other, .h_q = 4, .h_k = 2, .d = 8};
        if (by_keys) std::swap(spec.s_q, spec.s_k);
        spec.mask_kind = length % 2 == 0 ? FA_MASK_FULL : FA_MASK_CAUSAL;
        const fa_dtype dtype = length % 3 == 0 ? FA_DTYPE_BF16 : FA_DTYPE_F32;
        ASSERT_EQ(check_backward(backward_of(spec), dtype, static_cast<uint64_t>(length), cpu_runners()), "");
      }
    }
  }
}

TEST(BackwardEdges, HeadDims) {
  constexpr int64_t kDims[] = {1,   2,   3,   4,   5,   7,   8,   9,   12,  15,  16,  17,  20,  24,  31,  32,
                               33,  40,  47,  48,  49,  63,  64,  65,  80,  95,  96,  97,  112, 127, 128, 129,
                               144, 160, 191, 192, 200, 255, 256, 257, 300, 383, 384, 385, 448, 511, 512};
  const size_t count = std::size(kDims);
  for (size_t n = 0; n < count; ++n) {
    for (const int64_t d_v : {kDims[n], kDims[(n * 7 + 3) % count]}) {
      const CaseSpec spec = {.name = "head_dims", .s_q = 19, .s_k = 35, .h_q = 4, .h_k = 2, .d = kDims[n], .d_v = d_v};
      for (const fa_dtype dtype : {FA_DTYPE_F32, n % 2 == 0 ? FA_DTYPE_BF16 : FA_DTYPE_F16}) {
        ASSERT_EQ(check_backward(backward_of(spec), dtype, n, cpu_runners()), "");
      }
    }
  }
}

// Logits in the ten thousands, where exp(score - lse) with both in fp32 would leave few digits: the CPU's kernel makes the
// denominators again. Not in fp16, where the plain model's scores overflow, so that there is no measure.
TEST(BackwardEdges, HugeLogits) {
  CaseSpec spec = {.name = "huge_logits", .batch = 2, .s_q = 40, .s_k = 90, .h_q = 4, .h_k = 2, .d = 64, .scale = 1.0f};
  spec.magnitude = 4000.0f;
  for (const fa_mask_kind kind : {FA_MASK_FULL, FA_MASK_CAUSAL}) {
    spec.mask_kind = kind;
    for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16})
      EXPECT_EQ(check_backward(backward_of(spec), dtype, 3, cpu_runners()), "");
  }
}

// 0 and 1 in every place of a packed batch.
TEST(BackwardEdges, EmptyAndSingle) {
  CaseSpec spec = {.name = "empty_and_single", .batch = 9, .s_q = 2, .s_k = 2, .h_q = 2, .h_k = 2, .d = 16, .sink = true};
  for (int64_t n = 0; n < 9; ++n) {
    spec.lengths_q.push_back(n % 3);
    spec.lengths_k.push_back(n / 3);
  }
  for (const bool is_packed : {false, true}) {
    spec.query_layout = is_packed ? QueryLayout::packed : QueryLayout::dense;
    spec.key_layout = is_packed ? KeyLayout::packed : KeyLayout::dense;
    spec.bias = {.present = true, .broadcast = kRow};
    for (const fa_mask_kind kind : {FA_MASK_FULL, FA_MASK_CAUSAL}) {
      spec.mask_kind = kind;
      CaseSpec backward = backward_of(spec);
      backward.gradients.dlse = true;
      for (const fa_dtype dtype : dtype_list(kAllDTypes)) ASSERT_EQ(check_backward(backward, dtype, 1, cpu_runners()), "");
    }
  }
}

// Where there are no rows, no keys or no requests, what has elements is written 0.
TEST(BackwardEdges, NothingToDo) {
  const auto check = [](CaseSpec spec) {
    spec.sink = true;
    spec.alibi = 1;
    spec.bias = {.present = true, .broadcast = kBatch | kRow | kKey};
    CaseSpec backward = backward_of(spec);
    backward.gradients.dlse = true;
    EXPECT_EQ(check_backward(backward, FA_DTYPE_F32, 1, cpu_runners()), "");
    EXPECT_EQ(check_backward(backward, FA_DTYPE_BF16, 2, cpu_runners()), "");
    backward.flags = FA_FLAG_ACCUMULATE_DQ | FA_FLAG_ACCUMULATE_DK | FA_FLAG_ACCUMULATE_DV;
    EXPECT_EQ(check_backward(backward, FA_DTYPE_F32, 3, cpu_runners()), "");
  };
  check({.name = "no_requests", .batch = 0, .s_q = 3, .s_k = 4, .h_q = 2, .h_k = 2, .d = 16});
  check({.name = "no_rows", .batch = 2, .s_q = 0, .s_k = 4, .h_q = 2, .h_k = 2, .d = 16});
  check({.name = "no_keys", .batch = 2, .s_q = 3, .s_k = 0, .h_q = 2, .h_k = 2, .d = 16});
  CaseSpec all_empty = {.name = "all_empty", .batch = 2, .s_q = 3, .s_k = 3, .h_q = 2, .h_k = 2, .d = 16};
  all_empty.lengths_q = all_empty.lengths_k = {0, 0};
  check(all_empty);
  all_empty.query_layout = QueryLayout::packed;
  all_empty.key_layout = KeyLayout::packed;
  all_empty.seqused_q = all_empty.seqused_k = true;
  check(all_empty);
}

}  // namespace
}  // namespace flash_attn::test
