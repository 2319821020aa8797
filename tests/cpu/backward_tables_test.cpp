// What a backward refuses at its run: lengths and tables out of range, gradients that overlap, a workspace too small; each is named
// and nothing is written. And what the plan asks for: a workspace linear in length, under a bound that holds for smaller problems.
#include "tests/support/backward_check.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

namespace flash_attn::test {
namespace {

constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
constexpr int32_t kLeast = std::numeric_limits<int32_t>::min();

struct BadTable {
  std::string name;
  CaseSpec spec;
  size_t entry;
  std::vector<int32_t> values;
  const int32_t* fa_attention_args::*field;
};

std::vector<BadTable> bad_tables() {
  const CaseSpec dense = {.name = "tables", .batch = 3, .s_q = 6, .s_k = 40, .h_q = 2, .h_k = 2, .d = 16};
  CaseSpec packed = dense, lengths = dense, kinds = dense, tree = dense, padded = dense;
  packed.query_layout = QueryLayout::packed;
  packed.key_layout = KeyLayout::packed;
  packed.lengths_q = lengths.lengths_q = {6, 2, 3};
  packed.lengths_k = lengths.lengths_k = {40, 7, 9};
  kinds.mask_kind = FA_MASK_PER_REQUEST;
  kinds.tree_size = 4;
  tree.mask_kind = FA_MASK_TREE;
  tree.tree_size = 4;
  padded.leftpad = 3;
  using A = fa_attention_args;
  return {
      {"cu_seqlens_q", packed, 1, {9, -5, kMost, kLeast}, &A::cu_seqlens_q},
      {"cu_seqlens_q", packed, 3, {12, 7, kMost}, &A::cu_seqlens_q},
      {"cu_seqlens_k", packed, 2, {39, kMost, -1}, &A::cu_seqlens_k},
      {"cu_seqlens_k", packed, 3, {57, 46, kMost, kLeast}, &A::cu_seqlens_k},
      {"seqused_q", lengths, 1, {-1, 8, kMost, kLeast}, &A::seqused_q},
      {"seqused_k", lengths, 2, {-1, 43, kMost, kLeast}, &A::seqused_k},
      {"leftpad_k", padded, 1, {-1, kLeast}, &A::leftpad_k},
      {"mask_kinds", kinds, 1, {-1, 3, kMost, kLeast}, &A::mask_kinds},
      {"tree_sizes", tree, 1, {-1, 41, 65, kMost, kLeast}, &A::tree_sizes},
  };
}

TEST(BackwardTables, OutOfRangeIsNamedAndNothingIsWritten) {
  for (const BadTable& bad : bad_tables()) {
    BackwardProblem problem(backward_of(bad.spec), FA_DTYPE_F32, 17);
    const PlanHandle plan(problem.desc(), {});
    ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
    PlannedWorkspace workspace(plan.get());
    const int32_t* original = problem.args().*bad.field;
    const bool is_offsets = bad.field == &fa_attention_args::cu_seqlens_q || bad.field == &fa_attention_args::cu_seqlens_k;
    for (const int32_t value : bad.values) {
      std::vector<int32_t> changed(original, original + bad.spec.batch + (is_offsets ? 1 : 0));
      ASSERT_NE(changed[bad.entry], value);
      changed[bad.entry] = value;
      problem.mutable_args().*bad.field = changed.data();
      EXPECT_EQ(fa_run(plan.get(), &problem.args(), workspace.get(), nullptr, 0), FA_STATUS_INVALID_ARGUMENT)
          << bad.name << '[' << bad.entry << "] = " << value;
      EXPECT_NE(std::string(fa_last_error()).find(bad.name), std::string::npos) << fa_last_error();
      EXPECT_TRUE(problem.outputs_untouched()) << bad.name;
    }
    problem.mutable_args().*bad.field = original;
    EXPECT_EQ(fa_run(plan.get(), &problem.args(), workspace.get(), nullptr, 0), FA_STATUS_OK) << fa_last_error();
  }
}

TEST(BackwardArgs, GradientsMustNotOverlapAnything) {
  BackwardProblem problem(backward_of({.name = "overlap", .s_q = 9, .s_k = 9, .d = 16}), FA_DTYPE_F32, 1);
  const PlanHandle plan(problem.desc(), {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  PlannedWorkspace workspace(plan.get());
  fa_attention_args args = problem.args();
  args.dk = args.dq;
  EXPECT_EQ(fa_run(plan.get(), &args, workspace.get(), nullptr, 0), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(std::string(fa_last_error()).find("overlap but must be apart"), std::string::npos) << fa_last_error();
  args = problem.args();
  args.dq = const_cast<void*>(args.q);
  EXPECT_EQ(fa_run(plan.get(), &args, workspace.get(), nullptr, 0), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(std::string(fa_last_error()).find("overlaps q"), std::string::npos) << fa_last_error();
  EXPECT_TRUE(problem.outputs_untouched());
}

TEST(BackwardWorkspace, OneByteShortIsRefused) {
  int with_scratch = 0;
  for (const CaseSpec& spec : backward_cases()) {
    if (!(spec.labels & kTest) || spec.batch * spec.s_q * spec.s_k > 20000) continue;
    BackwardProblem problem(spec, FA_DTYPE_BF16, 3);
    const PlanHandle plan(problem.desc(), {});
    ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
    PlannedWorkspace workspace(plan.get());
    if (workspace.get()->scratch_bytes == 0) continue;
    ++with_scratch;
    workspace.mutable_workspace().scratch_bytes -= 1;
    EXPECT_EQ(fa_run(plan.get(), &problem.args(), workspace.get(), nullptr, 0), FA_STATUS_INVALID_ARGUMENT);
    EXPECT_NE(std::string(fa_last_error()).find("scratch_bytes"), std::string::npos) << fa_last_error();
    EXPECT_TRUE(problem.outputs_untouched()) << problem.text();
  }
  EXPECT_GT(with_scratch, 0) << "no case needs scratch, so this test tested nothing";
}

size_t scratch_of(const fa_attention_desc& desc) {
  const PlanHandle plan(desc, {});
  EXPECT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  size_t scratch = 0, state = 0;
  fa_plan_workspace(plan.get(), &scratch, &state);
  return scratch;
}

// A backward's description without data.
fa_attention_desc shaped(int64_t b, int64_t s_q, int64_t s_k, int64_t h_q, int64_t h_k, int64_t d, int64_t d_v, fa_dtype dtype) {
  fa_attention_desc desc;
  fa_attention_desc_init(&desc);
  const auto tensor = [&](int64_t rows, int64_t heads, int64_t dim) {
    return fa_tensor_desc{dtype, 4, {b, rows, heads, dim}, {rows * heads * dim, heads * dim, dim, 1}, 0};
  };
  desc.direction = FA_BACKWARD;
  desc.q = desc.dq = tensor(s_q, h_q, d);
  desc.k = desc.dk = tensor(s_k, h_k, d);
  desc.v = desc.dv = tensor(s_k, h_k, d_v);
  desc.o = desc.dout = tensor(s_q, h_q, d_v);
  desc.lse = {FA_DTYPE_F32, 3, {b, h_q, s_q, 0}, {h_q * s_q, s_q, 1, 0}, 0};
  return desc;
}

// No n x n memory: twice the length takes at most twice the scratch, and little more than a constant.
TEST(BackwardWorkspace, IsLinearInLength) {
  for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16}) {
    const size_t base = scratch_of(shaped(1, 4096, 4096, 2, 2, 64, 64, dtype));
    for (const int64_t factor : {2, 8, 64}) {
      const size_t longer = scratch_of(shaped(1, 4096 * factor, 4096 * factor, 2, 2, 64, 64, dtype));
      EXPECT_LE(longer, base * static_cast<size_t>(factor) + (1 << 20)) << factor;
    }
  }
}

TEST(BackwardWorkspace, BoundCoversSmallerProblems) {
  Random random(5);
  for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16}) {
    const fa_attention_desc most = shaped(4, 1000, 1500, 24, 24, 128, 128, dtype);
    size_t scratch = 0, state = 0;
    ASSERT_EQ(fa_workspace_bound(&most, &scratch, &state), FA_STATUS_OK) << fa_last_error();
    for (int round = 0; round < 200; ++round) {
      const int64_t h_k = random.between(1, 24), h_q = h_k * random.between(1, 24 / h_k);
      const fa_attention_desc desc = shaped(random.between(1, 4), random.between(1, 1000), random.between(1, 1500), h_q, h_k,
                                            random.between(1, 128), random.between(1, 128), dtype);
      EXPECT_LE(scratch_of(desc), scratch) << h_q << " heads over " << h_k;
    }
  }
}

}  // namespace
}  // namespace flash_attn::test
