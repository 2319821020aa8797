// The oracle's analytic gradients against finite differences of its own forward, over every feature that has a derivative, and
// against answers that can be written down. A test of the tests: the library does not run here.
#include "tests/support/backward_check.h"

#include "tests/oracle/values.h"
#include "tests/support/random_case.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace flash_attn::test {
namespace {

using oracle::Model;
using oracle::View;

// A backward's inputs in memory that may be changed: the loss is sum(dout * o) + sum(dlse * lse).
class Loss {
 public:
  explicit Loss(const BackwardProblem& problem) : desc_(problem.desc()), args_(problem.args()) {
    rows_ = oracle::all_rows(View(desc_, args_));
  }

  // The tensor's elements become this object's own.
  template <class Field>
  std::vector<float>& make_changeable(Field field, const fa_tensor_desc& tensor) {
    const std::vector<int64_t> offsets = element_offsets(tensor);
    copy_.assign(offsets.empty() ? 0 : static_cast<size_t>(offsets.back()) + 1, 0.0f);
    std::memcpy(copy_.data(), args_.*field, copy_.size() * sizeof(float));
    args_.*field = copy_.data();
    return copy_;
  }

  double value() const {
    const View view(desc_, args_);
    const oracle::Result result = oracle::forward(view, Model::exact, rows_);
    std::vector<double> dout(view.d_v());
    double sum = 0;
    for (size_t n = 0; n < rows_.size(); ++n) {
      view.dout_row(rows_[n].request, rows_[n].head, rows_[n].i, &dout);
      for (int64_t c = 0; c < view.d_v(); ++c) sum += dout[c] * result.o[n * static_cast<size_t>(view.d_v()) + c];
      if (std::isfinite(result.lse[n])) sum += view.dlse(rows_[n].request, rows_[n].head, rows_[n].i) * result.lse[n];
    }
    return sum;
  }

 private:
  fa_attention_desc desc_;
  fa_attention_args args_;
  std::vector<oracle::RowId> rows_;
  std::vector<float> copy_;
};

constexpr float kStep = 0x1p-9f;

// Every element of one gradient, or about `most` of them.
template <class Field>
void expect_gradient(const BackwardProblem& problem, Field field, const fa_tensor_desc& tensor, const oracle::Gradient& gradient,
                     const char* name, size_t most = 60) {
  const std::vector<int64_t> offsets = element_offsets(tensor);
  ASSERT_EQ(offsets.size(), gradient.values.size()) << name;
  const size_t step = std::max<size_t>(1, offsets.size() / most);
  Loss loss(problem);
  std::vector<float>& values = loss.make_changeable(field, tensor);
  for (size_t n = 0; n < offsets.size(); n += step) {
    float& x = values[static_cast<size_t>(offsets[n])];
    const float before = x;
    if (!std::isfinite(before)) {  // outside the lengths, or a bias of -inf
      EXPECT_NEAR(gradient.values[n], 0.0, 1e-300) << name << " of dead element " << n;
      continue;
    }
    const float above = before + kStep, below = before - kStep;
    x = above;
    const double high = loss.value();
    x = below;
    const double low = loss.value();
    x = before;
    const double expected = (high - low) / (static_cast<double>(above) - static_cast<double>(below));
    EXPECT_NEAR(gradient.values[n], expected, 2e-4 * std::max(1.0, std::fabs(expected))) << name << " element " << n;
    EXPECT_TRUE(gradient.live[n] || gradient.values[n] == 0.0) << name << " element " << n;
  }
}

void expect_gradients(const CaseSpec& forward, uint64_t seed) {
  CaseSpec spec = backward_of(forward);
  spec.gradients.dlse = true;
  const BackwardProblem problem(spec, FA_DTYPE_F32, seed);
  SCOPED_TRACE(problem.text());
  const View view(problem.desc(), problem.args());
  const oracle::Gradients exact = oracle::backward(view, Model::exact);
  const fa_attention_desc& desc = problem.desc();
  using A = fa_attention_args;
  expect_gradient(problem, &A::q, desc.q, exact.dq, "dq");
  expect_gradient(problem, &A::k, desc.k, exact.dk, "dk");
  expect_gradient(problem, &A::v, desc.v, exact.dv, "dv");
  if (spec.bias.present) expect_gradient(problem, &A::bias, desc.bias, exact.dbias, "dbias");
  if (spec.sink) expect_gradient(problem, &A::sink, desc.sink, exact.dsink, "dsink");
  if (spec.alibi != 0) expect_gradient(problem, &A::alibi, desc.alibi, exact.dslopes, "dslopes");
}

std::vector<CaseSpec> small_cases() {
  std::vector<CaseSpec> cases;
  const CaseSpec base = {.name = "base", .batch = 2, .s_q = 3, .s_k = 5, .h_q = 2, .h_k = 1, .d = 3, .d_v = 2};
  const auto add = [&](const char* name, auto&& change) {
    cases.push_back(base);
    cases.back().name = name;
    change(cases.back());
  };
  const auto pack = [](CaseSpec& s) {
    s.batch = 3, s.lengths_q = {3, 0, 2}, s.lengths_k = {5, 2, 0};
    s.query_layout = QueryLayout::packed, s.key_layout = KeyLayout::packed;
  };
  add("plain", [](CaseSpec&) {});
  add("causal", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL; });
  add("empty_rows", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.s_q = 5, s.s_k = 3; });
  add("empty_rows_sink", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.s_q = 5, s.s_k = 3, s.sink = true; });
  add("top_left_window", [](CaseSpec& s) { s.diagonal = FA_DIAGONAL_TOP_LEFT, s.window_left = 1, s.window_right = 2; });
  add("first_keys_chunk", [](CaseSpec& s) { s.chunk = 2, s.first_keys = 1; });
  add("tree", [](CaseSpec& s) { s.mask_kind = FA_MASK_TREE, s.tree_size = 3; });
  add("kinds", [](CaseSpec& s) { s.mask_kind = FA_MASK_PER_REQUEST, s.tree_size = 3, s.batch = 3; });
  add("mask", [](CaseSpec& s) { s.mask.present = true; });
  add("scale", [](CaseSpec& s) { s.scale = -0.7f; });
  add("softcap", [](CaseSpec& s) { s.softcap = 1.5f, s.magnitude = 2.0f; });
  add("alibi", [](CaseSpec& s) { s.alibi = 1, s.mask_kind = FA_MASK_CAUSAL; });
  add("alibi_per_request", [](CaseSpec& s) { s.alibi = 2, s.softcap = 2.0f; });
  add("sink", [](CaseSpec& s) { s.sink = true; });
  for (const uint32_t broadcast : {0u, 1u, 2u, 4u, 8u, 7u, 15u}) {
    add("bias", [&](CaseSpec& s) { s.bias = {.present = true, .broadcast = broadcast}, s.softcap = 3.0f; });
  }
  add("bias_minus_infinity", [](CaseSpec& s) { s.bias = {.present = true, .minus_infinity = 0.5f}, s.sink = true; });
  add("dropout", [](CaseSpec& s) { s.dropout_p = 0.4f, s.sink = true; });
  add("packed", pack);
  add("packed_seqused", [&](CaseSpec& s) { pack(s), s.seqused_q = s.seqused_k = true, s.leftpad = 2; });
  add("seqused", [](CaseSpec& s) { s.lengths_q = {3, 1}, s.lengths_k = {4, 5}, s.leftpad = 1; });
  add("packed_everything", [&](CaseSpec& s) {
    pack(s), s.mask_kind = FA_MASK_CAUSAL, s.window_left = 4, s.softcap = 4.0f, s.alibi = 2, s.sink = true, s.dropout_p = 0.2f;
    s.bias = {.present = true, .broadcast = kHead}, s.mask.present = true, s.seqused_q = true;
  });
  add("heads", [](CaseSpec& s) { s.strides = Strides::heads, s.h_q = 4, s.h_k = 2; });
  add("padded", [](CaseSpec& s) { s.strides = Strides::padded, s.bias.present = true; });
  return cases;
}

TEST(OracleBackward, AgreesWithFiniteDifferences) {
  for (const CaseSpec& spec : small_cases()) expect_gradients(spec, 3);
}

// One query, two keys, everything by hand.
TEST(OracleBackward, TwoKeysByHand) {
  CaseSpec spec = {.name = "hand", .s_q = 1, .s_k = 2, .d = 2, .d_v = 1, .scale = 0.5f, .sink = true};
  spec = backward_of(spec);
  spec.gradients.dlse = true;
  BackwardProblem problem(spec, FA_DTYPE_F32, 1);
  const float q[2] = {1, 2}, k[4] = {1, 0, 2, 1}, v[2] = {10, 20}, sink[1] = {0.5f}, dout[1] = {3.0f}, dlse[1] = {-2.0f};
  fa_attention_args& args = problem.mutable_args();
  args.q = q;
  args.k = k;
  args.v = v;
  args.sink = sink;
  args.dout = dout;
  args.dlse = dlse;
  const oracle::Gradients exact = oracle::backward(View(problem.desc(), args), Model::exact);
  const double e0 = std::exp(0.5), e1 = std::exp(2.0), es = std::exp(0.5), sum = e0 + e1 + es;
  const double p0 = e0 / sum, p1 = e1 / sum, ps = es / sum;
  const double mean = 3.0 * (p0 * 10 + p1 * 20);
  const double ds0 = p0 * (30 - mean - 2), ds1 = p1 * (60 - mean - 2);
  EXPECT_NEAR(exact.dq.values[0], 0.5 * (ds0 * 1 + ds1 * 2), 1e-12);
  EXPECT_NEAR(exact.dq.values[1], 0.5 * (ds1 * 1), 1e-12);
  EXPECT_NEAR(exact.dk.values[0], 0.5 * ds0 * 1, 1e-12);
  EXPECT_NEAR(exact.dk.values[3], 0.5 * ds1 * 2, 1e-12);
  EXPECT_NEAR(exact.dv.values[0], p0 * 3, 1e-12);
  EXPECT_NEAR(exact.dv.values[1], p1 * 3, 1e-12);
  EXPECT_NEAR(exact.dsink.values[0], ps * (-2 - mean), 1e-12);
}

// Nothing visible: no gradient, but the sink takes that of lse whole.
TEST(OracleBackward, EmptyRows) {
  CaseSpec spec = {.name = "empty", .s_q = 3, .s_k = 1, .d = 4, .mask_kind = FA_MASK_CAUSAL, .sink = true};
  spec = backward_of(spec);
  spec.gradients.dlse = true;
  const BackwardProblem problem(spec, FA_DTYPE_F32, 1);
  const View view(problem.desc(), problem.args());
  const oracle::Gradients exact = oracle::backward(view, Model::exact);
  for (int c = 0; c < 8; ++c) {
    EXPECT_EQ(exact.dq.values[c], 0.0);
    EXPECT_EQ(exact.dq.live[c], 0);
  }
  EXPECT_EQ(exact.dq.live[8], 1);
  CaseSpec no_keys = spec;
  no_keys.s_k = 0;
  const BackwardProblem none(no_keys, FA_DTYPE_F32, 1);
  const oracle::Gradients all_empty = oracle::backward(View(none.desc(), none.args()), Model::exact);
  double sum = 0;
  for (int64_t i = 0; i < 3; ++i) sum += none.args().dlse[i];
  EXPECT_NEAR(all_empty.dsink.values[0], sum, 1e-6);
}

// All data outside the lengths is NaN or infinite; finite results mean that the oracle's addressing is that of the builder. And the
// plain model, which the tolerance is measured by, is a sane one.
TEST(OracleBackward, EveryTestCaseIsFinite) {
  for (const CaseSpec& spec : backward_cases()) {
    if (!(spec.labels & kTest) || flops(spec) > 3e8) continue;
    for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16}) {
      const BackwardProblem problem(spec, dtype, 7);
      const BackwardReference reference = make_backward_reference(problem);
      for (const oracle::Gradient* gradient : {&reference.exact.dq, &reference.exact.dk, &reference.exact.dv,
                                               &reference.exact.dbias, &reference.exact.dsink, &reference.exact.dslopes}) {
        for (size_t n = 0; n < gradient->values.size(); ++n) {
          const bool is_dead = gradient->live[n] == 0;
          ASSERT_TRUE(is_dead || std::isfinite(gradient->values[n])) << problem.text();
        }
      }
      const bool is_f32 = dtype == FA_DTYPE_F32 && spec.o_dtype == FA_DTYPE_NONE;
      const double most = spec.magnitude > 10 ? INFINITY : (is_f32 ? 5e-4 : 1.0);
      for (int id = 0; id < 3; ++id) ASSERT_LT(reference.tolerance[id], most) << kGradientNames[id] << " of " << problem.text();
    }
  }
}

// The same tokens through different layouts give the same gradients.
TEST(OracleBackward, LayoutsAgree) {
  CaseSpec spec = {.name = "layouts", .batch = 2, .s_q = 5, .s_k = 9, .h_q = 4, .h_k = 2, .d = 8};
  const BackwardProblem rows(backward_of(spec), FA_DTYPE_F32, 3);
  const oracle::Gradients by_rows = oracle::backward(View(rows.desc(), rows.args()), Model::exact);
  spec.strides = Strides::heads;
  const BackwardProblem heads(backward_of(spec), FA_DTYPE_F32, 3);
  const oracle::Gradients by_heads = oracle::backward(View(heads.desc(), heads.args()), Model::exact);
  EXPECT_EQ(by_rows.dq.values, by_heads.dq.values);
  EXPECT_EQ(by_rows.dk.values, by_heads.dk.values);
  EXPECT_EQ(by_rows.dv.values, by_heads.dv.values);
}

// The comparison must see a wrong element, a NaN, and a write where nothing belongs.
TEST(BackwardCheck, FaultsAreSeen) {
  CaseSpec spec = {.name = "faults", .batch = 2, .s_q = 5, .s_k = 9, .h_q = 2, .h_k = 2, .d = 8, .lengths_k = {9, 4}};
  spec = backward_of(spec);
  spec.gradients.strides = Strides::padded;
  BackwardProblem problem(spec, FA_DTYPE_F32, 3);
  const BackwardReference reference = make_backward_reference(problem);
  GradientValues values;
  for (const double x : reference.exact.dq.values) values.of[0].push_back(static_cast<float>(x));
  for (const double x : reference.exact.dk.values) values.of[1].push_back(static_cast<float>(x));
  for (const double x : reference.exact.dv.values) values.of[2].push_back(static_cast<float>(x));
  EXPECT_EQ(compare_gradients(problem, reference, values), "");
  for (const float wrong : {0.01f, std::nanf("")}) {
    GradientValues other = values;
    other.of[1][3] += wrong;
    EXPECT_NE(compare_gradients(problem, reference, other).find("dk[0, 0, 0, 3]"), std::string::npos);
  }
  GradientValues tail = values;
  tail.of[2].back() = 1e-9f;
  EXPECT_NE(compare_gradients(problem, reference, tail).find("to which nothing contributes"), std::string::npos);
  EXPECT_TRUE(problem.outputs_untouched());
  EXPECT_EQ(problem.find_damage(), "");
  static_cast<float*>(problem.args().dq)[8] = 0.0f;  // in the gap after a head
  EXPECT_FALSE(problem.outputs_untouched());
  EXPECT_NE(problem.find_damage(), "");
  EXPECT_EQ(problem.find_damage(), "");
  static_cast<float*>(problem.args().dq)[7] = 0.0f;  // an element
  EXPECT_EQ(problem.find_damage(), "");
}

}  // namespace
}  // namespace flash_attn::test
