// No allocation in a run after prepare, in the whole process, the shared library included, on every thread.
#include "tests/support/allocation_count.h"
#include "tests/support/backward_problem.h"
#include "tests/support/check.h"

#include <gtest/gtest.h>

namespace flash_attn::test {
namespace {

int64_t count_during_run(const fa_plan* plan, const fa_attention_args* args, const fa_workspace* workspace, fa_status* status) {
  start_counting();
  *status = fa_run(plan, args, workspace, nullptr, 0);
  return stop_counting();
}

TEST(Allocation, TheHookSeesTheLibrary) {
  TestProblem problem({.name = "hook", .s_q = 2, .s_k = 8}, FA_DTYPE_F32, 1);
  fa_plan* plan = nullptr;
  start_counting();
  const fa_status status = fa_plan_create(&problem.desc(), &plan);
  const int64_t allocations = stop_counting();
  fa_plan_destroy(plan);
  EXPECT_EQ(status, FA_STATUS_OK);
  EXPECT_GT(allocations, 0) << "planning allocates a plan; a hook that misses it proves nothing";
}

TEST(Allocation, NoneInRunAfterPrepare) {
  for (const int threads : {1, 3}) {
    fa_set_num_threads(threads);
    for (const CaseSpec& spec : all_cases()) {
      if (!(spec.labels & kTest)) continue;
      for (const fa_dtype dtype : dtype_list(spec.dtypes)) {
        TestProblem problem(spec, dtype, 1);
        const PlanHandle plan(problem.desc(), {});
        ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
        PlannedWorkspace workspace(plan.get());
        ASSERT_EQ(fa_prepare(plan.get(), nullptr), FA_STATUS_OK) << fa_last_error();
        fa_status status = FA_STATUS_OK;
        const int64_t count = count_during_run(plan.get(), &problem.args(), workspace.get(), &status);
        ASSERT_EQ(status, FA_STATUS_OK) << fa_last_error();
        EXPECT_EQ(count, 0) << problem.text() << " threads " << threads;
      }
    }
  }
  fa_set_num_threads(0);
}

TEST(Allocation, NoneInABackwardEither) {
  for (const int threads : {1, 3}) {
    fa_set_num_threads(threads);
    for (const CaseSpec& spec : backward_cases()) {
      if (!(spec.labels & kTest)) continue;
      for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16}) {
        const BackwardProblem problem(spec, dtype, 1, GuardedBuffer::Edge::end, ForwardBy::library);
        const PlanHandle plan(problem.desc(), {});
        ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
        PlannedWorkspace workspace(plan.get());
        ASSERT_EQ(fa_prepare(plan.get(), nullptr), FA_STATUS_OK) << fa_last_error();
        fa_status status = FA_STATUS_OK;
        const int64_t count = count_during_run(plan.get(), &problem.args(), workspace.get(), &status);
        ASSERT_EQ(status, FA_STATUS_OK) << fa_last_error();
        EXPECT_EQ(count, 0) << problem.text() << " threads " << threads;
      }
    }
  }
  fa_set_num_threads(0);
}

}  // namespace
}  // namespace flash_attn::test
