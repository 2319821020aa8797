// Every (s_q, s_k) from 0 to 20 under every kind of mask, on every dtype, kernel and instruction set: once as 441 requests of one
// packed call, once as requests of one padded call, once each alone; gradients in the first two ways.
#include "tests/support/backward_check.h"
#include "tests/support/check.h"

#include <gtest/gtest.h>

namespace flash_attn::test {
namespace {

constexpr int64_t kMost = 20;

std::vector<CaseSpec> masks() {
  const CaseSpec base = {.name = "", .batch = 1, .s_q = kMost, .s_k = kMost, .h_q = 2, .h_k = 1, .d = 8};
  std::vector<CaseSpec> specs;
  const auto add = [&](const char* name, auto&& change) {
    specs.push_back(base);
    specs.back().name = name;
    change(specs.back());
  };
  add("full", [](CaseSpec&) {});
  add("causal", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL; });
  add("causal_top_left", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.diagonal = FA_DIAGONAL_TOP_LEFT; });
  add("causal_offset", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.diagonal = FA_DIAGONAL_OFFSET, s.diagonal_offset = -3; });
  add("window_2_0", [](CaseSpec& s) { s.window_left = 2, s.window_right = 0; });
  add("window_0_3", [](CaseSpec& s) { s.window_left = 0, s.window_right = 3; });
  add("window_left_5", [](CaseSpec& s) { s.window_left = 5; });
  add("window_right_4_top_left", [](CaseSpec& s) { s.window_right = 4, s.diagonal = FA_DIAGONAL_TOP_LEFT; });
  add("window_causal_sink", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.window_left = 3, s.sink = true; });
  add("first_keys", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.window_left = 2, s.first_keys = 3; });
  add("chunk", [](CaseSpec& s) { s.chunk = 6; });
  add("chunk_causal_first_keys", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.chunk = 5, s.first_keys = 2; });
  add("tree", [](CaseSpec& s) { s.mask_kind = FA_MASK_TREE, s.tree_size = 12; });
  add("bool_mask", [](CaseSpec& s) { s.mask.present = true; });
  add("bool_mask_causal_per_head",
      [](CaseSpec& s) { s.mask = {.present = true, .broadcast = kRow}, s.mask_kind = FA_MASK_CAUSAL; });
  return specs;
}

CaseSpec all_lengths(const CaseSpec& mask, bool packed) {
  CaseSpec spec = mask;
  spec.batch = (kMost + 1) * (kMost + 1);
  for (int64_t s_q = 0; s_q <= kMost; ++s_q) {
    for (int64_t s_k = 0; s_k <= kMost; ++s_k) {
      spec.lengths_q.push_back(s_q);
      spec.lengths_k.push_back(s_k);
    }
  }
  if (packed) {
    spec.query_layout = QueryLayout::packed;
    spec.key_layout = KeyLayout::packed;
  }
  return spec;
}

class Exhaustive : public ::testing::TestWithParam<CaseSpec> {};

TEST_P(Exhaustive, AsOnePackedCall) { EXPECT_EQ(check_case(all_lengths(GetParam(), true), 11), ""); }

TEST_P(Exhaustive, AsOnePaddedCall) { EXPECT_EQ(check_case(all_lengths(GetParam(), false), 12), ""); }

// The tolerance is that of all lengths together: of two or three numbers alone, the plain model's error is luck.
TEST_P(Exhaustive, EachAlone) {
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    const Reference together = make_reference(TestProblem(all_lengths(GetParam(), true), dtype, 13));
    CheckOptions options;
    options.o_tolerance = together.o_tolerance;
    std::string faults;
    for (int64_t s_q = 0; s_q <= kMost && faults.size() < 2000; ++s_q) {
      for (int64_t s_k = 0; s_k <= kMost; ++s_k) {
        CaseSpec spec = GetParam();
        spec.s_q = s_q;
        spec.s_k = s_k;
        faults += check_case(spec, dtype, static_cast<uint64_t>(100 * s_q + s_k), options);
      }
    }
    EXPECT_EQ(faults, "");
  }
}

TEST_P(Exhaustive, Backward) {
  for (const bool packed : {true, false}) {
    CaseSpec spec = backward_of(all_lengths(GetParam(), packed));
    spec.gradients.dlse = true;
    EXPECT_EQ(check_backward(spec, FA_DTYPE_F32, 14, cpu_runners()), "");
    EXPECT_EQ(check_backward(spec, FA_DTYPE_BF16, 15, cpu_runners()), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Masks, Exhaustive, ::testing::ValuesIn(masks()),
                         [](const ::testing::TestParamInfo<CaseSpec>& mask) { return mask.param.name; });

}  // namespace
}  // namespace flash_attn::test
