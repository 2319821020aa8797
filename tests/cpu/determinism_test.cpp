// Bitwise equality where it is promised: over repeats, numbers of threads, the caller's parallel_for, and for batch_invariant runs
// over what else is in the call.
#include "tests/support/check.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace flash_attn::test {
namespace {

std::vector<CaseSpec> determinism_cases() {
  return {{.name = "prefill", .batch = 2, .s_q = 150, .s_k = 260, .h_q = 4, .h_k = 2, .d = 64, .mask_kind = FA_MASK_CAUSAL},
          {.name = "decode", .batch = 1, .s_q = 1, .s_k = 5000, .h_q = 8, .h_k = 2, .d = 64},
          {.name = "decode_splits", .batch = 2, .s_q = 1, .s_k = 3000, .h_q = 4, .h_k = 4, .d = 40, .num_splits = 7},
          {.name = "packed",
           .batch = 4,
           .s_q = 130,
           .s_k = 700,
           .h_q = 4,
           .h_k = 1,
           .d = 64,
           .lengths_q = {130, 1, 3, 40},
           .lengths_k = {700, 650, 33, 40},
           .query_layout = QueryLayout::packed,
           .key_layout = KeyLayout::paged,
           .mask_kind = FA_MASK_CAUSAL,
           .dropout_p = 0.2f},
          {.name = "one_head", .batch = 1, .s_q = 600, .s_k = 600, .h_q = 1, .h_k = 1, .d = 64, .mask_kind = FA_MASK_CAUSAL}};
}

Outputs run_or_fail(const CaseSpec& spec, fa_dtype dtype, const Choice& choice) {
  TestProblem problem(spec, dtype, 21);
  const std::vector<oracle::RowId> rows = oracle::all_rows(oracle::View(problem.desc(), problem.args()));
  const RunResult result = run_problem(&problem, choice, rows);
  EXPECT_TRUE(result.ok()) << result.text();
  return result.outputs;
}

class Determinism : public ::testing::TestWithParam<CaseSpec> {
 protected:
  void TearDown() override {
    fa_set_parallel_for(nullptr, nullptr, 0);
    fa_set_num_threads(0);
  }
};

TEST_P(Determinism, Repeats) {
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    for (const Choice& choice : isa_choices()) {
      const Outputs first = run_or_fail(GetParam(), dtype, choice);
      for (int repeat = 0; repeat < 3; ++repeat) EXPECT_EQ(compare_bitwise(first, run_or_fail(GetParam(), dtype, choice)), "");
    }
  }
}

TEST_P(Determinism, NumberOfThreads) {
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    for (const Choice& choice : isa_choices()) {
      ASSERT_EQ(fa_set_num_threads(1), FA_STATUS_OK);
      const Outputs one = run_or_fail(GetParam(), dtype, choice);
      for (const int threads : {2, 3, 5}) {
        ASSERT_EQ(fa_set_num_threads(threads), FA_STATUS_OK);
        EXPECT_EQ(fa_get_num_threads(), threads);
        EXPECT_EQ(compare_bitwise(one, run_or_fail(GetParam(), dtype, choice)), "") << choice.text() << ' ' << threads;
        CaseSpec limited = GetParam();
        limited.num_threads = 2;
        EXPECT_EQ(compare_bitwise(one, run_or_fail(limited, dtype, choice)), "") << choice.text() << " limited to 2";
      }
    }
  }
}

std::atomic<int64_t> tasks_run = 0;

void serial_for(void* user, int64_t count, fa_task_fn task, void* context) {
  *static_cast<int*>(user) += 1;
  for (int64_t i = count - 1; i >= 0; --i) task(context, i);
  tasks_run += count;
}

void threaded_for(void* user, int64_t count, fa_task_fn task, void* context) {
  *static_cast<int*>(user) += 1;
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < count; ++i) threads.emplace_back([=] { task(context, i); });
  for (std::thread& thread : threads) thread.join();
  tasks_run += count;
}

TEST_P(Determinism, CallersParallelFor) {
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    const Outputs own = run_or_fail(GetParam(), dtype, {});
    for (const fa_parallel_for_fn parallel_for : {serial_for, threaded_for}) {
      for (const int concurrency : {1, 4}) {
        int calls = 0;
        ASSERT_EQ(fa_set_parallel_for(parallel_for, &calls, concurrency), FA_STATUS_OK);
        EXPECT_EQ(compare_bitwise(own, run_or_fail(GetParam(), dtype, {})), "");
        EXPECT_TRUE(concurrency == 1 || calls > 0);
        ASSERT_EQ(fa_set_parallel_for(nullptr, nullptr, 0), FA_STATUS_OK);
      }
    }
  }
  EXPECT_GT(tasks_run.load(), 0);
}

INSTANTIATE_TEST_SUITE_P(Cases, Determinism, ::testing::ValuesIn(determinism_cases()),
                         [](const ::testing::TestParamInfo<CaseSpec>& spec) { return spec.param.name; });

// One request of a packed batch, cut out into a problem of its own that reads the same memory.
Outputs run_alone(TestProblem* batch, int64_t r, const Choice& choice) {
  const fa_attention_args saved_args = batch->args();
  const fa_attention_desc saved_desc = batch->desc();
  const int32_t cu_q[2] = {saved_args.cu_seqlens_q[r], saved_args.cu_seqlens_q[r + 1]};
  const int32_t cu_k[2] = {saved_args.cu_seqlens_k[r], saved_args.cu_seqlens_k[r + 1]};
  batch->mutable_desc().batch = 1;
  batch->mutable_desc().max_s_q = std::max(1, cu_q[1] - cu_q[0]);
  batch->mutable_desc().max_s_k = std::max(1, cu_k[1] - cu_k[0]);
  batch->mutable_args().cu_seqlens_q = cu_q;
  batch->mutable_args().cu_seqlens_k = cu_k;
  const std::vector<oracle::RowId> rows = oracle::all_rows(oracle::View(batch->desc(), batch->args()));
  const RunResult result = run_problem(batch, choice, rows);
  EXPECT_TRUE(result.ok()) << result.text();
  batch->mutable_args() = saved_args;
  batch->mutable_desc() = saved_desc;
  return result.outputs;
}

void check_invariance(const CaseSpec& spec, fa_dtype dtype, const Choice& choice) {
  TestProblem problem(spec, dtype, 31);
  const std::vector<oracle::RowId> rows = oracle::all_rows(oracle::View(problem.desc(), problem.args()));
  const RunResult together = run_problem(&problem, choice, rows);
  ASSERT_TRUE(together.ok()) << together.text();
  const size_t d_v = static_cast<size_t>(spec.value_dim());
  for (int64_t r = 0; r < spec.batch; ++r) {
    Outputs part;
    for (size_t n = 0; n < rows.size(); ++n) {
      if (rows[n].request != r) continue;
      part.o.insert(part.o.end(), together.outputs.o.begin() + static_cast<std::ptrdiff_t>(n * d_v),
                    together.outputs.o.begin() + static_cast<std::ptrdiff_t>((n + 1) * d_v));
      part.lse.push_back(together.outputs.lse[n]);
    }
    EXPECT_EQ(compare_bitwise(part, run_alone(&problem, r, choice)), "")
        << choice.text() << " request " << r << " of " << problem.text();
  }
}

TEST(BatchInvariance, RequestAloneIsBitwiseTheSame) {
  CaseSpec spec = {.name = "invariance",
                   .batch = 7,
                   .s_q = 300,
                   .s_k = 3000,
                   .h_q = 4,
                   .h_k = 2,
                   .d = 64,
                   .lengths_q = {1, 300, 2, 17, 0, 1, 64},
                   .lengths_k = {3000, 300, 700, 17, 9, 0, 1500},
                   .query_layout = QueryLayout::packed,
                   .key_layout = KeyLayout::packed,
                   .mask_kind = FA_MASK_CAUSAL,
                   .flags = FA_FLAG_BATCH_INVARIANT};
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    for (const Choice& choice : isa_choices()) {
      check_invariance(spec, dtype, choice);
      CaseSpec split = spec;
      split.split_size = 512;
      check_invariance(split, dtype, choice);
    }
  }
}

}  // namespace
}  // namespace flash_attn::test
