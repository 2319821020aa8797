// One plan run by many threads at once, and use after fork.
#include "tests/support/check.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace flash_attn::test {
namespace {

CaseSpec busy_case() {
  return {.name = "busy", .batch = 2, .s_q = 40, .s_k = 300, .h_q = 4, .h_k = 2, .d = 64, .mask_kind = FA_MASK_CAUSAL};
}

// Each thread has its own args and workspace, the plan is one.
TEST(Concurrency, ThreadsShareOnePlan) {
  constexpr int kThreads = 6, kRounds = 20;
  std::vector<std::unique_ptr<TestProblem>> problems;
  for (int t = 0; t < kThreads; ++t) problems.push_back(std::make_unique<TestProblem>(busy_case(), FA_DTYPE_BF16, 50 + t));
  const PlanHandle plan(problems[0]->desc(), {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  const std::vector<oracle::RowId> rows = oracle::all_rows(oracle::View(problems[0]->desc(), problems[0]->args()));
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      TestProblem& problem = *problems[t];
      PlannedWorkspace workspace(plan.get());
      Outputs first;
      for (int round = 0; round < kRounds; ++round) {
        problem.reset_outputs();
        if (fa_run(plan.get(), &problem.args(), workspace.get(), nullptr, 0) != FA_STATUS_OK) ++failures;
        const Outputs outputs = problem.read_outputs(rows);
        if (round == 0) first = outputs;
        if (!compare_bitwise(first, outputs).empty()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures.load(), 0);
  for (const auto& problem : problems) {
    const Reference reference = make_reference(*problem);
    EXPECT_EQ(compare(*problem, reference, problem->read_outputs(rows)), "");
  }
}

// The last error belongs to the thread that failed.
TEST(Concurrency, LastErrorIsPerThread) {
  TestProblem problem(busy_case(), FA_DTYPE_F32, 1);
  fa_attention_desc bad = problem.desc();
  bad.window_left = -7;
  ASSERT_EQ(fa_validate(&bad), FA_STATUS_INVALID_ARGUMENT);
  const std::string message = fa_last_error();
  EXPECT_NE(message.find("window_left"), std::string::npos);
  std::string elsewhere = "unset";
  std::thread([&] { elsewhere = fa_last_error(); }).join();
  EXPECT_EQ(elsewhere, "");
  EXPECT_EQ(fa_last_error(), message);
}

// Threads set the number of threads while others run.
TEST(Concurrency, SettingThreadsWhileRunning) {
  std::atomic<bool> stop = false;
  std::thread setter([&] {
    for (int n = 0; !stop; n = (n + 1) % 5) fa_set_num_threads(n);
  });
  TestProblem problem(busy_case(), FA_DTYPE_F32, 2);
  const Reference reference = make_reference(problem);
  for (int round = 0; round < 50; ++round) {
    const RunResult result = run_problem(&problem, {}, reference.rows);
    EXPECT_TRUE(result.ok()) << result.text();
    EXPECT_EQ(compare(problem, reference, result.outputs), "");
  }
  stop = true;
  setter.join();
  fa_set_num_threads(0);
}

// A child of fork has none of the parent's threads and must still compute; the parent goes on as before.
TEST(Concurrency, ForkAfterUse) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer allows no new threads in the child of a process with threads";
#endif
  fa_set_num_threads(3);
  TestProblem problem(busy_case(), FA_DTYPE_F32, 3);
  const Reference reference = make_reference(problem);
  ASSERT_EQ(compare(problem, reference, run_problem(&problem, {}, reference.rows).outputs), "");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);
    const RunResult result = run_problem(&problem, {}, reference.rows);
    _exit(result.ok() && compare(problem, reference, result.outputs).empty() ? 0 : 1);
  }
  int state = 0;
  ASSERT_EQ(waitpid(child, &state, 0), child);
  EXPECT_TRUE(WIFEXITED(state)) << "signal " << WTERMSIG(state);
  EXPECT_EQ(WEXITSTATUS(state), 0);
  EXPECT_EQ(compare(problem, reference, run_problem(&problem, {}, reference.rows).outputs), "");
  fa_set_num_threads(0);
}

}  // namespace
}  // namespace flash_attn::test
