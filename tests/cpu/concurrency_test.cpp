// One plan run by many threads at once, and use after fork.
#include "tests/support/check.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
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

int count_threads() {
  int count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) count += task.is_directory() ? 1 : 0;
  return count;
}

// Threads are started ahead of a run although another run keeps the pool busy.
TEST(Concurrency, PrepareWhileThePoolIsBusy) {
  constexpr int kFew = 2, kMany = 12;  // more than any other test here starts
  const CaseSpec spec = {.name = "long", .batch = 4, .s_q = 500, .s_k = 500, .h_q = 8, .h_k = 8, .d = 64};
  TestProblem problem(spec, FA_DTYPE_F32, 4), other(spec, FA_DTYPE_F32, 5);
  fa_set_num_threads(kFew);
  const PlanHandle few(problem.desc(), {});
  ASSERT_EQ(few.status(), FA_STATUS_OK) << fa_last_error();
  const PlannedWorkspace workspace(few.get());
  ASSERT_EQ(fa_run(few.get(), &problem.args(), workspace.get(), nullptr, 0), FA_STATUS_OK) << fa_last_error();
  std::atomic<bool> stop = false;
  std::atomic<int> runs = 0, failures = 0;
  std::thread runner([&] {
    for (; !stop; ++runs) failures += fa_run(few.get(), &problem.args(), workspace.get(), nullptr, 0) == FA_STATUS_OK ? 0 : 1;
  });
  while (runs == 0) std::this_thread::yield();
  ASSERT_LT(count_threads(), kMany);
  fa_set_num_threads(kMany);
  const PlanHandle many(other.desc(), {});
  ASSERT_EQ(many.status(), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(fa_prepare(many.get(), nullptr), FA_STATUS_OK) << fa_last_error();
  EXPECT_GE(count_threads(), kMany + 1);  // with the one that runs
  stop = true;
  runner.join();
  EXPECT_EQ(failures, 0);
  fa_set_num_threads(0);
}

// A fork may come while another thread is setting something; the child must find no setting locked.
TEST(Concurrency, ForkWhileAThreadSets) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer does not follow the child of a process with threads";
#endif
  constexpr int kForks = 400;
  const auto set_all = [] {
    const fa_parallel_for_fn serial = [](void*, int64_t count, fa_task_fn task, void* context) {
      for (int64_t i = 0; i < count; ++i) task(context, i);
    };
    fa_set_parallel_for(serial, nullptr, 1);
    fa_set_parallel_for(nullptr, nullptr, 0);
    fa_set_log(nullptr, nullptr, FA_LOG_ERROR);
    fa_archive_use(nullptr);
  };
  std::atomic<bool> stop = false;
  std::thread setter([&] {
    while (!stop) set_all();
  });
  int hung = 0;
  for (int n = 0; n < kForks && hung == 0; ++n) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      alarm(10);
      set_all();
      _exit(fa_get_num_threads() > 0 ? 0 : 1);
    }
    int state = 0;
    ASSERT_EQ(waitpid(child, &state, 0), child);
    hung += WIFEXITED(state) && WEXITSTATUS(state) == 0 ? 0 : 1;
  }
  EXPECT_EQ(hung, 0);
  stop = true;
  setter.join();
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
