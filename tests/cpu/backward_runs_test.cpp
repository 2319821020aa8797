// How backward plans run on a CPU: bitwise the same whatever the threads and the other requests, after the library's own forward,
// into memory of any layout.
#include "tests/support/backward_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

// One request of a packed batch, cut out into a problem of its own that reads and writes the same memory.
void run_alone(BackwardProblem* batch, int64_t r) {
  const fa_attention_args saved_args = batch->args();
  const fa_attention_desc saved_desc = batch->desc();
  const int32_t cu_q[2] = {saved_args.cu_seqlens_q[r], saved_args.cu_seqlens_q[r + 1]};
  const int32_t cu_k[2] = {saved_args.cu_seqlens_k[r], saved_args.cu_seqlens_k[r + 1]};
  batch->mutable_desc().batch = 1;
  batch->mutable_desc().max_s_q = std::max(1, cu_q[1] - cu_q[0]);
  batch->mutable_desc().max_s_k = std::max(1, cu_k[1] - cu_k[0]);
  batch->mutable_args().cu_seqlens_q = cu_q;
  batch->mutable_args().cu_seqlens_k = cu_k;
  EXPECT_EQ(fa_attention(&batch->desc(), &batch->args(), nullptr), FA_STATUS_OK) << fa_last_error();
  batch->mutable_args() = saved_args;
  batch->mutable_desc() = saved_desc;
}

// With FA_FLAG_BATCH_INVARIANT a request's gradients are the same bits without the others.
TEST(BackwardRuns, RequestAloneIsBitwiseTheSame) {
  CaseSpec spec = {.name = "invariance", .batch = 6, .s_q = 300, .s_k = 400, .h_q = 4, .h_k = 2, .d = 64};
  spec.lengths_q = {1, 300, 2, 0, 64, 17};
  spec.lengths_k = {400, 300, 70, 9, 150, 0};
  spec.query_layout = QueryLayout::packed;
  spec.key_layout = KeyLayout::packed;
  spec.mask_kind = FA_MASK_CAUSAL;
  spec.flags = FA_FLAG_BATCH_INVARIANT;
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    BackwardProblem problem(backward_of(spec), dtype, 31);
    const GradientValues together = run_or_fail(&problem, {});
    const oracle::View view(problem.desc(), problem.args());
    for (int64_t r = 0; r < spec.batch; ++r) {
      run_alone(&problem, r);
      const GradientValues alone = problem.read_outputs();
      problem.reset_outputs();
      const size_t d = 64, q_row = 4 * d, k_row = 2 * d;
      const auto expect_rows = [&](int id, int64_t first, int64_t rows, size_t row) {
        for (size_t n = static_cast<size_t>(first) * row; n < static_cast<size_t>(first + rows) * row; ++n)
          ASSERT_EQ(together.of[id][n], alone.of[id][n]) << kGradientNames[id] << " of request " << r << ", " << problem.text();
      };
      expect_rows(0, view.request(r).q_start, view.request(r).s_q, q_row);
      expect_rows(1, view.request(r).k_start, view.request(r).s_k, k_row);
      expect_rows(2, view.request(r).k_start, view.request(r).s_k, k_row);
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
