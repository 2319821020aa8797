// Lengths, tables and indices that a CPU run reads, each driven out of range: INVALID_ARGUMENT that names the table, no output
// touched. Also workspaces that are too small or absent.
#include "tests/support/check.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace flash_attn::test {
namespace {

using Table = std::vector<int32_t>;

struct BadTable {
  std::string name;  // field of fa_attention_args, which the message must contain
  CaseSpec spec;     // a problem that has it
  int64_t entry;     // which element to change
  Table values;      // to each of these in turn
  const int32_t* fa_attention_args::*field;
};

constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
constexpr int32_t kLeast = std::numeric_limits<int32_t>::min();

std::vector<BadTable> bad_tables() {
  const CaseSpec dense = {.name = "tables", .batch = 3, .s_q = 6, .s_k = 40, .h_q = 2, .h_k = 2, .d = 16};
  CaseSpec packed = dense, lengths = dense, cache = dense, paged = dense, kinds = dense, tree = dense, padded = dense;
  packed.query_layout = QueryLayout::packed;
  packed.key_layout = KeyLayout::packed;
  packed.lengths_q = {6, 2, 3};
  packed.lengths_k = {40, 7, 9};
  lengths.lengths_q = {6, 2, 3};
  lengths.lengths_k = {40, 7, 9};
  cache.cache_batch_idx = true;
  paged.key_layout = KeyLayout::paged;
  paged.lengths_k = {40, 17, 33};
  kinds.mask_kind = FA_MASK_PER_REQUEST;
  kinds.tree_size = 4;
  tree.mask_kind = FA_MASK_TREE;
  tree.tree_size = 4;
  padded.leftpad = 3;
  using A = fa_attention_args;
  return {
      {"cu_seqlens_q", packed, 0, {-1, kLeast}, &A::cu_seqlens_q},
      {"cu_seqlens_q", packed, 1, {9, -5, kMost, kLeast}, &A::cu_seqlens_q},
      {"cu_seqlens_q", packed, 3, {12, 7, kMost}, &A::cu_seqlens_q},
      {"cu_seqlens_k", packed, 0, {-1, kLeast}, &A::cu_seqlens_k},
      {"cu_seqlens_k", packed, 2, {39, kMost, -1}, &A::cu_seqlens_k},
      {"cu_seqlens_k", packed, 3, {57, 46, kMost, kLeast}, &A::cu_seqlens_k},
      {"seqused_q", lengths, 1, {-1, 8, kMost, kLeast}, &A::seqused_q},
      {"seqused_k", lengths, 2, {-1, 43, kMost, kLeast}, &A::seqused_k},
      {"seqused_k", paged, 2, {-1, 43, kMost, kLeast}, &A::seqused_k},
      {"leftpad_k", padded, 1, {-1, kLeast}, &A::leftpad_k},
      {"cache_batch_idx", cache, 2, {-1, 5, kMost, kLeast}, &A::cache_batch_idx},
      {"block_table", paged, 0, {-1, 10, kMost, kLeast}, &A::block_table},
      {"block_table", paged, 2, {-1, 10, kMost, kLeast}, &A::block_table},
      {"mask_kinds", kinds, 1, {-1, 3, 7, kMost, kLeast}, &A::mask_kinds},
      {"tree_sizes", tree, 1, {-1, 41, 65, kMost, kLeast}, &A::tree_sizes},
  };
}

int64_t table_length(const BadTable& bad, const TestProblem& problem) {
  if (bad.field == &fa_attention_args::block_table) return problem.spec().batch * problem.desc().block_table.shape[1];
  const bool is_offsets = bad.field == &fa_attention_args::cu_seqlens_q || bad.field == &fa_attention_args::cu_seqlens_k;
  return problem.spec().batch + (is_offsets ? 1 : 0);
}

TEST(Tables, OutOfRangeIsNamedAndNothingIsWritten) {
  for (const BadTable& bad : bad_tables()) {
    TestProblem problem(bad.spec, FA_DTYPE_F32, 17);
    const PlanHandle plan(problem.desc(), {});
    ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
    PlannedWorkspace workspace(plan.get());
    const int32_t* original = problem.args().*bad.field;
    for (const int32_t value : bad.values) {
      Table changed(original, original + table_length(bad, problem));
      ASSERT_NE(changed[static_cast<size_t>(bad.entry)], value);
      changed[static_cast<size_t>(bad.entry)] = value;
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

// Left padding longer than what is used leaves no keys; that is legal.
TEST(Tables, LeftpadBeyondUsedMeansNoKeys) {
  const CaseSpec spec = {.name = "leftpad", .batch = 2, .s_q = 3, .s_k = 20, .h_q = 2, .h_k = 2, .d = 16, .leftpad = 4};
  TestProblem problem(spec, FA_DTYPE_F32, 5);
  const int32_t leftpad[2] = {kMost, 24};
  problem.mutable_args().leftpad_k = leftpad;
  const Reference reference = make_reference(problem);
  EXPECT_EQ(reference.exact.lse[0], -INFINITY);
  for (const Choice& choice : all_choices()) {
    const RunResult result = run_problem(&problem, choice, reference.rows);
    ASSERT_TRUE(result.ok()) << result.text();
    EXPECT_EQ(compare(problem, reference, result.outputs), "") << choice.text();
  }
}

// Without seqused_k, paged and per-pointer requests have as many keys as declared, and no more.
TEST(Tables, DeclaredMaximumIsTheLengthWithoutSeqused) {
  for (const KeyLayout layout : {KeyLayout::paged, KeyLayout::pointers}) {
    const CaseSpec spec = {.name = "declared", .batch = 2, .s_q = 1, .s_k = 530, .h_q = 2, .h_k = 2, .d = 16, .key_layout = layout};
    TestProblem problem(spec, FA_DTYPE_F32, 5);
    problem.mutable_desc().inputs &= ~static_cast<uint32_t>(FA_INPUT_SEQUSED_K);
    problem.mutable_args().seqused_k = nullptr;
    problem.mutable_desc().max_s_k = 530;
    const Reference reference = make_reference(problem);
    for (const Choice& choice : all_choices()) {
      const RunResult result = run_problem(&problem, choice, reference.rows);
      ASSERT_TRUE(result.ok()) << result.text();
      EXPECT_EQ(compare(problem, reference, result.outputs), "") << choice.text();
    }
  }
}

TEST(Workspace, OneByteShortIsRefused) {
  int with_scratch = 0;
  for (const CaseSpec& spec : all_cases()) {
    if (!(spec.labels & kTest) || spec.batch * spec.s_q * spec.s_k > 200000) continue;
    TestProblem problem(spec, FA_DTYPE_BF16, 3);
    const PlanHandle plan(problem.desc(), {});
    ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
    PlannedWorkspace workspace(plan.get());
    if (workspace.get()->scratch_bytes == 0) continue;
    ++with_scratch;
    workspace.mutable_workspace().scratch_bytes -= 1;
    EXPECT_EQ(fa_run(plan.get(), &problem.args(), workspace.get(), nullptr, 0), FA_STATUS_INVALID_ARGUMENT);
    EXPECT_NE(std::string(fa_last_error()).find("scratch_bytes"), std::string::npos) << fa_last_error();
    EXPECT_TRUE(problem.outputs_untouched()) << problem.text();
    EXPECT_EQ(fa_run(plan.get(), &problem.args(), nullptr, nullptr, 0), FA_STATUS_INVALID_ARGUMENT);
    EXPECT_TRUE(problem.outputs_untouched()) << problem.text();
  }
  EXPECT_GT(with_scratch, 0) << "no case needs scratch, so this test tested nothing";
}

// Options that decide how keys are split, and with it how much is kept between.
struct SplitOptions {
  int num_splits;
  int64_t split_size;
  uint32_t flags;
  const char* kernel;
};

void check_bound(const SplitOptions& options) {
  const CaseSpec most = {.name = "most", .batch = 4, .s_q = 130, .s_k = 3000, .h_q = 24, .h_k = 24, .d = 128};
  TestProblem maxima(most, FA_DTYPE_BF16, 1);
  maxima.mutable_desc().num_splits = options.num_splits;
  maxima.mutable_desc().split_size = options.split_size;
  maxima.mutable_desc().flags |= options.flags;
  maxima.mutable_desc().kernel = options.kernel;
  size_t scratch = 0, state = 0;
  ASSERT_EQ(fa_workspace_bound(&maxima.desc(), &scratch, &state), FA_STATUS_OK) << fa_last_error();
  Random random(5);
  for (int round = 0; round < 300; ++round) {
    CaseSpec spec = most;
    spec.batch = random.between(1, 4);
    spec.s_q = random.between(1, 130);
    spec.s_k = random.between(1, 3000);
    spec.h_k = random.between(1, 24);
    spec.h_q = spec.h_k * random.between(1, 24 / spec.h_k);
    spec.d = random.between(1, 128);
    spec.d_v = random.between(1, 128);
    // Descriptions only: the sizes are what is compared.
    fa_attention_desc desc = maxima.desc();
    const auto shape = [&](fa_tensor_desc* tensor, int64_t rows, int64_t heads, int64_t dim) {
      *tensor = {tensor->dtype, 4, {spec.batch, rows, heads, dim}, {rows * heads * dim, heads * dim, dim, 1}, 0};
    };
    shape(&desc.q, spec.s_q, spec.h_q, spec.d);
    shape(&desc.k, spec.s_k, spec.h_k, spec.d);
    shape(&desc.v, spec.s_k, spec.h_k, spec.d_v);
    shape(&desc.o, spec.s_q, spec.h_q, spec.d_v);
    desc.lse.dtype = FA_DTYPE_NONE;
    desc.batch = spec.batch;
    const PlanHandle plan(desc, {});
    ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
    size_t needed_scratch = 0, needed_state = 0;
    ASSERT_EQ(fa_plan_workspace(plan.get(), &needed_scratch, &needed_state), FA_STATUS_OK);
    EXPECT_LE(needed_scratch, scratch) << to_text(spec);
    EXPECT_LE(needed_state, state) << to_text(spec);
  }
}

// A bound planned for maxima serves smaller problems.
TEST(Workspace, BoundCoversSmallerProblems) {
  for (const SplitOptions& options :
       {SplitOptions{0, 0, 0, nullptr}, SplitOptions{5, 0, 0, nullptr}, SplitOptions{0, 300, 0, "panel"},
        SplitOptions{0, 0, FA_FLAG_BATCH_INVARIANT, nullptr}, SplitOptions{0, 0, FA_FLAG_BATCH_INVARIANT, "rows"}}) {
    check_bound(options);
  }
}

// Sizes that no machine has are told as such; they do not wrap around to something small.
TEST(Workspace, AbsurdProblemsNeedAbsurdMemory) {
  const int64_t rows = int64_t{1} << 40, keys = int64_t{1} << 30, heads = 64, dim = 128;
  fa_attention_desc desc;
  fa_attention_desc_init(&desc);
  desc.q = desc.o = {FA_DTYPE_BF16, 4, {1, rows, heads, dim}, {rows * heads * dim, heads * dim, dim, 1}, 0};
  desc.k = desc.v = {FA_DTYPE_BF16, 4, {1, keys, heads, dim}, {keys * heads * dim, heads * dim, dim, 1}, 0};
  for (const int64_t split_size : {int64_t{0}, int64_t{1}}) {
    desc.split_size = split_size;
    desc.num_splits = split_size == 0 ? 4096 : 0;
    const PlanHandle plan(desc, {});
    ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
    size_t scratch = 0, state = 0;
    ASSERT_EQ(fa_plan_workspace(plan.get(), &scratch, &state), FA_STATUS_OK);
    EXPECT_GT(scratch, size_t{1} << 50);
    ASSERT_EQ(fa_workspace_bound(&desc, &scratch, &state), FA_STATUS_OK);
    EXPECT_GT(scratch, size_t{1} << 50);
  }
}

// The one-call form finds its own workspace.
TEST(Workspace, OneCallNeedsNone) {
  for (const CaseSpec& spec : all_cases()) {
    if (!(spec.labels & kTest)) continue;
    TestProblem problem(spec, FA_DTYPE_F32, 3);
    const std::vector<oracle::RowId> rows = oracle::all_rows(oracle::View(problem.desc(), problem.args()));
    ASSERT_EQ(fa_attention(&problem.desc(), &problem.args(), nullptr), FA_STATUS_OK) << fa_last_error() << problem.text();
    const Outputs one_call = problem.read_outputs(rows);
    EXPECT_EQ(problem.find_damage(), "") << problem.text();
    problem.reset_outputs();
    EXPECT_EQ(compare_bitwise(one_call, run_problem(&problem, {}, rows).outputs), "") << problem.text();
  }
}

}  // namespace
}  // namespace flash_attn::test
