// How backward plans run on a CPU: bitwise the same whatever the threads, after the library's own forward, into memory of any
// layout, and refused with a name when lengths, tables or the workspace are wrong.
#include "tests/support/backward_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

namespace flash_attn::test {
namespace {

CaseSpec with_everything(CaseSpec spec) {
  spec.alibi = 2;
  spec.sink = true;
  spec.softcap = 15.0f;
  spec.bias = {.present = true, .broadcast = kBatch | kRow};
  CaseSpec backward = backward_of(spec);
  backward.gradients.dlse = true;
  return backward;
}

std::vector<CaseSpec> run_cases() {
  CaseSpec packed = {.name = "packed", .batch = 4, .s_q = 130, .s_k = 300, .h_q = 4, .h_k = 1, .d = 64, .dropout_p = 0.2f};
  packed.lengths_q = {130, 1, 3, 40};
  packed.lengths_k = {300, 250, 33, 40};
  packed.query_layout = QueryLayout::packed;
  packed.key_layout = KeyLayout::packed;
  packed.mask_kind = FA_MASK_CAUSAL;
  CaseSpec one_head = {.name = "one_head", .s_q = 600, .s_k = 600, .d = 64, .mask_kind = FA_MASK_CAUSAL};
  CaseSpec gqa = {.name = "gqa", .batch = 2, .s_q = 150, .s_k = 200, .h_q = 8, .h_k = 2, .d = 40, .d_v = 72};
  return {with_everything(packed), backward_of(one_head), with_everything(gqa)};
}

GradientValues run_or_fail(BackwardProblem* problem, const Choice& choice) {
  const BackwardRun run = run_backward(problem, choice);
  EXPECT_TRUE(run.ok()) << run.text();
  return run.gradients;
}

class BackwardDeterminism : public ::testing::TestWithParam<CaseSpec> {
 protected:
  void TearDown() override {
    fa_set_parallel_for(nullptr, nullptr, 0);
    fa_set_num_threads(0);
  }
};

TEST_P(BackwardDeterminism, Repeats) {
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    BackwardProblem problem(GetParam(), dtype, 21);
    for (const Choice& choice : isa_choices()) {
      const GradientValues first = run_or_fail(&problem, choice);
      for (int repeat = 0; repeat < 30; ++repeat)
        ASSERT_EQ(compare_bitwise(first, run_or_fail(&problem, choice)), "") << choice.text();
    }
  }
}

TEST_P(BackwardDeterminism, NumberOfThreads) {
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    BackwardProblem problem(GetParam(), dtype, 21);
    for (const Choice& choice : isa_choices()) {
      ASSERT_EQ(fa_set_num_threads(1), FA_STATUS_OK);
      const GradientValues one = run_or_fail(&problem, choice);
      for (const int threads : {2, 3, 5, 16}) {
        ASSERT_EQ(fa_set_num_threads(threads), FA_STATUS_OK);
        EXPECT_EQ(compare_bitwise(one, run_or_fail(&problem, choice)), "") << choice.text() << ' ' << threads;
        problem.mutable_desc().num_threads = 2;
        EXPECT_EQ(compare_bitwise(one, run_or_fail(&problem, choice)), "") << choice.text() << " limited to 2";
        problem.mutable_desc().num_threads = 0;
      }
    }
  }
}

void serial_for(void* user, int64_t count, fa_task_fn task, void* context) {
  *static_cast<int*>(user) += 1;
  for (int64_t i = count - 1; i >= 0; --i) task(context, i);
}

TEST_P(BackwardDeterminism, CallersParallelFor) {
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    BackwardProblem problem(GetParam(), dtype, 21);
    const GradientValues own = run_or_fail(&problem, {});
    for (const int concurrency : {1, 4}) {
      int calls = 0;
      ASSERT_EQ(fa_set_parallel_for(serial_for, &calls, concurrency), FA_STATUS_OK);
      EXPECT_EQ(compare_bitwise(own, run_or_fail(&problem, {})), "");
      EXPECT_TRUE(concurrency == 1 || calls > 0);
      ASSERT_EQ(fa_set_parallel_for(nullptr, nullptr, 0), FA_STATUS_OK);
    }
  }
}

// dq, dk and dv of a request do not depend on how they lie in memory.
TEST_P(BackwardDeterminism, StridesChangeNothing) {
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    BackwardProblem by_rows(GetParam(), dtype, 21);
    const GradientValues rows = run_or_fail(&by_rows, {});
    for (const Strides strides : {Strides::heads, Strides::fused, Strides::padded}) {
      CaseSpec other = GetParam();
      other.gradients.strides = strides;
      BackwardProblem problem(other, dtype, 21);
      EXPECT_EQ(compare_bitwise(rows, run_or_fail(&problem, {})), "") << problem.text();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, BackwardDeterminism, ::testing::ValuesIn(run_cases()),
                         [](const ::testing::TestParamInfo<CaseSpec>& spec) { return spec.param.name; });

// The forward's own o and lse in place of the oracle's: what a training step does.
TEST(BackwardRuns, AfterTheLibrarysForward) {
  for (const CaseSpec& spec : run_cases()) {
    for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
      BackwardProblem problem(spec, dtype, 5);
      const BackwardReference reference = make_pooled_reference(problem, 5);
      fa_attention_desc forward = problem.desc();
      forward.direction = FA_FORWARD;
      forward.flags = 0;
      for (fa_tensor_desc* tensor : {&forward.dout, &forward.dq, &forward.dk, &forward.dv, &forward.dlse, &forward.dbias,
                                     &forward.dsink, &forward.dslopes}) {
        tensor->dtype = FA_DTYPE_NONE;
      }
      fa_attention_args args = problem.args();
      GuardedBuffer o(static_cast<size_t>(element_offsets(forward.o).back() + 1) * static_cast<size_t>(element_bytes(dtype)), 4,
                      GuardedBuffer::Edge::end);
      GuardedBuffer lse(static_cast<size_t>(element_offsets(forward.lse).back() + 1) * 4, 4, GuardedBuffer::Edge::end);
      args.o = o.data();
      args.lse = lse.as<float>();
      args.dout = args.dlse = nullptr;
      args.dq = args.dk = args.dv = nullptr;
      args.dbias = args.dsink = args.dslopes = nullptr;
      ASSERT_EQ(fa_attention(&forward, &args, nullptr), FA_STATUS_OK) << fa_last_error();
      problem.mutable_args().o = o.data();
      problem.mutable_args().lse = lse.as<float>();
      const BackwardRun run = run_backward(&problem, {});
      ASSERT_TRUE(run.ok()) << run.text();
      EXPECT_EQ(compare_gradients(problem, reference, run.gradients), "");
    }
  }
}

// Weights are exp(score - lse) with both in fp32: logits in the ten thousands leave few digits, but nothing breaks.
TEST(BackwardRuns, HugeLogitsStayFinite) {
  CaseSpec spec = {.name = "huge_logits", .batch = 2, .s_q = 40, .s_k = 90, .h_q = 4, .h_k = 2, .d = 64, .scale = 1.0f};
  spec.magnitude = 4000.0f;
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    BackwardProblem problem(backward_of(spec), dtype, 3);
    const BackwardReference reference = make_backward_reference(problem);
    for (const Choice& choice : isa_choices()) {
      const BackwardRun run = run_backward(&problem, choice);
      ASSERT_TRUE(run.ok()) << run.text();
      double most = 0;
      for (const double x : reference.exact.dv.values) most = std::max(most, std::fabs(x));
      for (int id = 0; id < 3; ++id) {
        for (const float x : run.gradients.of[id]) ASSERT_TRUE(std::isfinite(x)) << kGradientNames[id] << ' ' << problem.text();
      }
      // |lse| is below 2^17, a weight's exponent therefore off by no more than a few times 2^-7.
      for (size_t n = 0; n < reference.exact.dv.values.size(); ++n)
        ASSERT_NEAR(run.gradients.of[2][n], reference.exact.dv.values[n], 0.05 * most) << problem.text();
    }
  }
}

// A second run adds the same again.
TEST(BackwardRuns, AccumulatingTwiceAddsTwice) {
  CaseSpec spec = backward_of({.name = "twice", .batch = 2, .s_q = 40, .s_k = 60, .h_q = 4, .h_k = 2, .d = 32});
  BackwardProblem overwriting(spec, FA_DTYPE_F32, 21);
  const GradientValues once = run_or_fail(&overwriting, {});
  spec.flags = FA_FLAG_ACCUMULATE_DQ | FA_FLAG_ACCUMULATE_DK | FA_FLAG_ACCUMULATE_DV;
  BackwardProblem problem(spec, FA_DTYPE_F32, 21);
  const PlanHandle plan(problem.desc(), {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  PlannedWorkspace workspace(plan.get());
  const GradientValues before = problem.read_outputs();
  for (int repeat = 0; repeat < 2; ++repeat)
    ASSERT_EQ(fa_run(plan.get(), &problem.args(), workspace.get(), nullptr, 0), FA_STATUS_OK) << fa_last_error();
  const GradientValues after = problem.read_outputs();
  // The incoming gradients were drawn before the bases, so that both problems have the same ones.
  for (int id = 0; id < 3; ++id) {
    for (size_t n = 0; n < once.of[id].size(); ++n)
      ASSERT_NEAR(after.of[id][n], before.of[id][n] + 2 * once.of[id][n], 1e-5) << kGradientNames[id] << ' ' << n;
  }
}

// ---- What is refused -------------------------------------------------------------------------------------------

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

// Two threads run one plan, each with gradients and workspace of its own.
TEST(BackwardRuns, ThreadsShareAPlan) {
  const CaseSpec spec = run_cases()[2];
  BackwardProblem first(spec, FA_DTYPE_F32, 1), second(spec, FA_DTYPE_F32, 2);
  const BackwardReference references[2] = {make_pooled_reference(first, 1), make_pooled_reference(second, 2)};
  BackwardProblem* const problems[2] = {&first, &second};
  const PlanHandle plan(first.desc(), {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  std::string faults[2];
  std::vector<std::thread> threads;
  for (int n = 0; n < 2; ++n) {
    threads.emplace_back([&, n] {
      PlannedWorkspace workspace(plan.get());
      for (int round = 0; round < 5 && faults[n].empty(); ++round) {
        problems[n]->reset_outputs();
        if (fa_run(plan.get(), &problems[n]->args(), workspace.get(), nullptr, 0) != FA_STATUS_OK) faults[n] = fa_last_error();
        if (faults[n].empty()) faults[n] = compare_gradients(*problems[n], references[n], problems[n]->read_outputs());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(faults[0], "");
  EXPECT_EQ(faults[1], "");
}

}  // namespace
}  // namespace flash_attn::test
