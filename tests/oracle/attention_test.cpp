// The oracle against answers that can be written down: hand-computed softmax, masks drawn as text, and problems that different
// features must make equal. A test of the tests: the library does not run here.
#include "tests/oracle/attention_f64.h"
#include "tests/support/reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace flash_attn::test {
namespace {

using oracle::Model;
using oracle::View;

// Rows of "x" (visible) and "." for request r, head 0.
std::vector<std::string> draw(const TestProblem& problem, int64_t r = 0) {
  const View view(problem.desc(), problem.args());
  std::vector<std::string> rows;
  for (int64_t i = 0; i < view.request(r).s_q; ++i) {
    std::string row;
    for (int64_t j = 0; j < view.request(r).s_k; ++j) row += view.is_visible(r, 0, i, j) ? 'x' : '.';
    rows.push_back(row);
  }
  return rows;
}

CaseSpec square(int64_t s_q, int64_t s_k) { return {.name = "drawn", .s_q = s_q, .s_k = s_k, .d = 4}; }

std::vector<std::string> draw(const CaseSpec& spec) { return draw(TestProblem(spec, FA_DTYPE_F32, 1)); }

using Picture = std::vector<std::string>;

TEST(OracleMask, Causal) {
  CaseSpec spec = square(3, 5);
  spec.mask_kind = FA_MASK_CAUSAL;
  EXPECT_EQ(draw(spec), (Picture{"xxx..", "xxxx.", "xxxxx"}));
  spec.diagonal = FA_DIAGONAL_TOP_LEFT;
  EXPECT_EQ(draw(spec), (Picture{"x....", "xx...", "xxx.."}));
  spec.diagonal = FA_DIAGONAL_OFFSET;
  spec.diagonal_offset = -1;
  EXPECT_EQ(draw(spec), (Picture{".....", "x....", "xx..."}));
  CaseSpec tall = square(5, 3);
  tall.mask_kind = FA_MASK_CAUSAL;
  EXPECT_EQ(draw(tall), (Picture{"...", "...", "x..", "xx.", "xxx"}));
}

TEST(OracleMask, Window) {
  CaseSpec spec = square(4, 6);
  spec.window_left = 1;
  spec.window_right = 1;
  EXPECT_EQ(draw(spec), (Picture{".xxx..", "..xxx.", "...xxx", "....xx"}));
  spec.mask_kind = FA_MASK_CAUSAL;
  EXPECT_EQ(draw(spec), (Picture{".xx...", "..xx..", "...xx.", "....xx"}));
  spec.first_keys = 2;
  EXPECT_EQ(draw(spec), (Picture{"xxx...", "xxxx..", "xx.xx.", "xx..xx"}));
  CaseSpec right = square(3, 5);
  right.window_right = 1;
  EXPECT_EQ(draw(right), (Picture{"xxxx.", "xxxxx", "xxxxx"}));
}

TEST(OracleMask, FirstKeysObeyTheRightLimit) {
  CaseSpec spec = square(4, 4);
  spec.mask_kind = FA_MASK_CAUSAL;
  spec.window_left = 0;
  spec.first_keys = 2;
  EXPECT_EQ(draw(spec), (Picture{"x...", "xx..", "xxx.", "xx.x"}));
}

TEST(OracleMask, Chunk) {
  CaseSpec spec = square(6, 6);
  spec.chunk = 4;
  EXPECT_EQ(draw(spec), (Picture{"xxxx..", "xxxx..", "xxxx..", "xxxx..", "....xx", "....xx"}));
  spec.mask_kind = FA_MASK_CAUSAL;
  spec.first_keys = 1;
  EXPECT_EQ(draw(spec), (Picture{"x.....", "xx....", "xxx...", "xxxx..", "x...x.", "x...xx"}));
  // Query 0 stands at key -3: chunk -1, which has no key; first keys lie right of that chunk.
  CaseSpec negative = square(6, 3);
  negative.chunk = 4;
  negative.first_keys = 1;
  EXPECT_EQ(draw(negative), (Picture{"...", "...", "...", "xxx", "xxx", "xxx"}));
}

TEST(OracleMask, Tree) {
  CaseSpec spec = square(3, 5);
  spec.mask_kind = FA_MASK_TREE;
  spec.tree_size = 3;
  TestProblem problem(spec, FA_DTYPE_F32, 1);
  const uint64_t bits[3] = {0b001, 0b011, ~uint64_t{0} << 2};  // bits past the tree mean nothing
  problem.mutable_args().tree_mask = bits;
  EXPECT_EQ(draw(problem), (Picture{"xxx..", "xxxx.", "xx..x"}));
  const int32_t sizes[1] = {0};
  problem.mutable_args().tree_sizes = sizes;
  EXPECT_EQ(draw(problem), (Picture{"xxxxx", "xxxxx", "xxxxx"}));
}

TEST(OracleMask, KindPerRequest) {
  CaseSpec spec = square(2, 3);
  spec.batch = 3;
  spec.mask_kind = FA_MASK_PER_REQUEST;
  spec.tree_size = 1;
  TestProblem problem(spec, FA_DTYPE_F32, 1);
  const uint64_t bits[6] = {0, 0, 0, 0, 0, 1};
  problem.mutable_args().tree_mask = bits;
  const int32_t sizes[3] = {1, 1, 1};
  problem.mutable_args().tree_sizes = sizes;
  EXPECT_EQ(draw(problem, 0), (Picture{"xxx", "xxx"}));
  EXPECT_EQ(draw(problem, 1), (Picture{"xx.", "xxx"}));
  EXPECT_EQ(draw(problem, 2), (Picture{"xx.", "xxx"}));
}

// One query, two keys, everything by hand.
TEST(OracleForward, TwoKeysByHand) {
  CaseSpec spec = {.name = "hand", .s_q = 1, .s_k = 2, .d = 2, .d_v = 1, .scale = 0.5f, .softcap = 2.0f, .alibi = 1, .sink = true};
  TestProblem problem(spec, FA_DTYPE_F32, 1);
  const float q[2] = {1, 2}, k[4] = {1, 0, 2, 1}, v[2] = {10, 20}, slope[1] = {0.25f}, sink[1] = {0.5f};
  problem.mutable_args().q = q;
  problem.mutable_args().k = k;
  problem.mutable_args().v = v;
  problem.mutable_args().alibi = slope;
  problem.mutable_args().sink = sink;
  const View view(problem.desc(), problem.args());
  const oracle::Result exact = oracle::forward(view, Model::exact, oracle::all_rows(view));
  // delta = 1: the query stands at key 1.
  const double score0 = 2 * std::tanh(0.5 / 2) - 0.25, score1 = 2 * std::tanh(2.0 / 2);
  const double sum = std::exp(score0) + std::exp(score1) + std::exp(0.5);
  EXPECT_NEAR(exact.o[0], (10 * std::exp(score0) + 20 * std::exp(score1)) / sum, 1e-12);
  EXPECT_NEAR(exact.lse[0], std::log(sum), 1e-12);
}

TEST(OracleForward, EmptyRows) {
  CaseSpec spec = square(3, 1);
  spec.mask_kind = FA_MASK_CAUSAL;
  const Reference reference = make_reference(TestProblem(spec, FA_DTYPE_F32, 1));
  EXPECT_EQ(reference.exact.lse[0], -INFINITY);
  EXPECT_EQ(reference.exact.o[0], 0.0);
  spec.sink = true;
  const TestProblem problem(spec, FA_DTYPE_F32, 1);
  const Reference with_sink = make_reference(problem);
  EXPECT_NEAR(with_sink.exact.lse[0], problem.args().sink[0], 1e-12);
  EXPECT_EQ(with_sink.exact.o[0], 0.0);
}

// All data outside the lengths is NaN or infinite; finite results mean that the oracle's addressing is that of the builder.
TEST(OracleForward, EveryTestCaseIsFinite) {
  for (const CaseSpec& spec : all_cases()) {
    if (!(spec.labels & kTest)) continue;
    for (const fa_dtype dtype : dtype_list(spec.dtypes)) {
      const TestProblem problem(spec, dtype, 7);
      const Reference reference = make_reference(problem, 64);
      for (const double o : reference.exact.o) ASSERT_TRUE(std::isfinite(o)) << problem.text();
      for (const double lse : reference.exact.lse) ASSERT_FALSE(std::isnan(lse) || lse == INFINITY) << problem.text();
      // Where logits are small, a tolerance that lets everything pass would be a fault of the plain model.
      const bool is_f32 = dtype == FA_DTYPE_F32 && spec.o_dtype == FA_DTYPE_NONE;
      const double most = spec.magnitude > 10 ? INFINITY : (is_f32 ? 1e-4 : 0.1);
      ASSERT_LT(reference.o_tolerance, most) << problem.text();
    }
  }
}

// The same tokens through different layouts give the same numbers.
TEST(OracleForward, LayoutsAgree) {
  CaseSpec spec = {.name = "layouts", .batch = 3, .s_q = 5, .s_k = 9, .h_q = 4, .h_k = 2, .d = 8, .lengths_k = {9, 0, 4}};
  const Reference dense = make_reference(TestProblem(spec, FA_DTYPE_F32, 3));
  for (const Strides strides : {Strides::heads, Strides::padded}) {
    CaseSpec other = spec;
    other.strides = strides;
    EXPECT_EQ(dense.exact.o, make_reference(TestProblem(other, FA_DTYPE_F32, 3)).exact.o);
  }
  CaseSpec pointers = spec;
  pointers.key_layout = KeyLayout::pointers;
  const Reference by_pointers = make_reference(TestProblem(pointers, FA_DTYPE_F32, 3));
  EXPECT_EQ(dense.exact.o, by_pointers.exact.o);
  EXPECT_EQ(dense.exact.lse, by_pointers.exact.lse);
  EXPECT_EQ(by_pointers.exact.lse[20], -INFINITY);
}

// About a share p of the weights is dropped, and the rest is scaled up.
TEST(OracleForward, DropoutRate) {
  CaseSpec spec = {.name = "dropout", .s_q = 64, .s_k = 64, .d = 4, .dropout_p = 0.25f};
  const TestProblem problem(spec, FA_DTYPE_F32, 5);
  const View view(problem.desc(), problem.args());
  int kept = 0;
  for (int64_t i = 0; i < 64; ++i) {
    for (int64_t j = 0; j < 64; ++j) kept += view.is_kept(0, 0, i, j) ? 1 : 0;
  }
  EXPECT_NEAR(kept / 4096.0, 0.75, 0.03);
}

}  // namespace
}  // namespace flash_attn::test
