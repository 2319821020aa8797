// The exported functions around plans, messages, texts and settings: what each does with good and bad arguments, across threads and
// forks.
#include "tests/core/valid_desc.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace flash_attn::test {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Tensors of dense_desc, and the arguments that point to them.
struct DenseData {
  std::vector<float> q = std::vector<float>(2 * 3 * 4 * 8, 0.5f);
  std::vector<float> k = std::vector<float>(2 * 5 * 2 * 8, 0.25f);
  std::vector<float> v = std::vector<float>(2 * 5 * 2 * 6, 1.0f);
  std::vector<float> o = std::vector<float>(2 * 3 * 4 * 6, -7.0f);
  std::vector<float> lse = std::vector<float>(2 * 4 * 3, -7.0f);

  fa_attention_args args() {
    fa_attention_args args;
    fa_attention_args_init(&args);
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    args.o = o.data();
    args.lse = lse.data();
    return args;
  }

  bool is_untouched() const { return o == std::vector<float>(o.size(), -7.0f) && lse == std::vector<float>(lse.size(), -7.0f); }
};

TEST(Status, Names) {
  const char* names[] = {"FA_STATUS_OK",           "FA_STATUS_INVALID_ARGUMENT", "FA_STATUS_UNSUPPORTED", "FA_STATUS_OUT_OF_MEMORY",
                         "FA_STATUS_DEVICE_ERROR", "FA_STATUS_COMPILE_ERROR",    "FA_STATUS_INTERNAL"};
  for (int code = 0; code < 7; ++code) EXPECT_STREQ(fa_status_name(code), names[code]);
  EXPECT_STREQ(fa_status_name(-1), "unknown fa_status");
  EXPECT_STREQ(fa_status_name(7), "unknown fa_status");
}

TEST(Status, Version) { EXPECT_EQ(fa_version(), FA_VERSION_MAJOR * 10000u + FA_VERSION_MINOR * 100u + FA_VERSION_PATCH); }

TEST(LastError, BelongsToTheThreadAndOutlivesSuccess) {
  EXPECT_EQ(fa_validate(nullptr), FA_STATUS_INVALID_ARGUMENT);
  const std::string mine = fa_last_error();
  EXPECT_EQ(mine, "desc is NULL");
  std::string fresh = "unset", other;
  std::thread([&] {
    fresh = fa_last_error();
    EXPECT_EQ(fa_plan_create(nullptr, nullptr), FA_STATUS_INVALID_ARGUMENT);
    other = fa_last_error();
  }).join();
  EXPECT_EQ(fresh, "");
  EXPECT_EQ(other, "plan is NULL");
  const fa_attention_desc desc = dense_desc();
  EXPECT_EQ(fa_validate(&desc), FA_STATUS_OK);
  EXPECT_EQ(fa_last_error(), mine);
}

TEST(Explain, BufferRules) {
  const fa_attention_desc desc = dense_desc();
  size_t length = 0;
  ASSERT_EQ(fa_explain(&desc, nullptr, 0, &length), FA_STATUS_OK) << fa_last_error();
  ASSERT_GT(length, 20u);
  std::vector<char> whole(length + 2, '#');
  size_t again = 0;
  ASSERT_EQ(fa_explain(&desc, whole.data(), length + 1, &again), FA_STATUS_OK);
  EXPECT_EQ(again, length);
  EXPECT_EQ(std::strlen(whole.data()), length);
  EXPECT_EQ(whole[length + 1], '#');
  EXPECT_TRUE(has(whole.data(), "forward on cpu")) << whole.data();
  EXPECT_TRUE(has(whole.data(), "kernel: cpu/")) << whole.data();
  std::vector<char> part(12, '#');
  ASSERT_EQ(fa_explain(&desc, part.data(), 10, nullptr), FA_STATUS_OK);
  EXPECT_EQ(std::string(part.data()), std::string(whole.data(), 9));
  EXPECT_EQ(part[10], '#');
  char none = '#';
  ASSERT_EQ(fa_explain(&desc, &none, 0, &length), FA_STATUS_OK);
  EXPECT_EQ(none, '#');
  EXPECT_EQ(fa_explain(&desc, nullptr, 5, &length), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_TRUE(has(fa_last_error(), "buffer is NULL but capacity is 5")) << fa_last_error();
}

TEST(Explain, UnservedProblemsGetTextInvalidOnesAStatus) {
  fa_attention_desc desc = append_desc();
  char text[4096];
  ASSERT_EQ(fa_explain(&desc, text, sizeof text, nullptr), FA_STATUS_OK) << fa_last_error();
  EXPECT_TRUE(has(text, "append, rotary")) << text;
  EXPECT_TRUE(has(text, "not served: ")) << text;
  desc.q.rank = 7;
  EXPECT_EQ(fa_explain(&desc, text, sizeof text, nullptr), FA_STATUS_INVALID_ARGUMENT);
}

TEST(Supports, ValidButUnservedIsUnsupported) {
  const fa_attention_desc append = append_desc();
  EXPECT_EQ(fa_validate(&append), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(fa_supports(&append), FA_STATUS_UNSUPPORTED);
  fa_plan* plan = nullptr;
  EXPECT_EQ(fa_plan_create(&append, &plan), FA_STATUS_UNSUPPORTED);
  EXPECT_EQ(plan, nullptr);
  fa_attention_desc cuda = dense_desc();
  cuda.device_type = FA_DEVICE_CUDA;
  EXPECT_EQ(fa_validate(&cuda), FA_STATUS_OK) << fa_last_error();
  if (fa_kernel_name(FA_DEVICE_CUDA, 0) == nullptr) {
    EXPECT_EQ(fa_supports(&cuda), FA_STATUS_UNSUPPORTED);
    EXPECT_TRUE(has(fa_last_error(), "this build has no CUDA room")) << fa_last_error();
  }
  fa_attention_desc forced = dense_desc();
  forced.kernel = "no such kernel";
  EXPECT_EQ(fa_supports(&forced), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_TRUE(has(fa_last_error(), "no such kernel")) << fa_last_error();
}

TEST(Plan, NullArgumentsAreNamed) {
  const fa_attention_desc desc = dense_desc();
  size_t bytes = 0;
  EXPECT_EQ(fa_plan_create(&desc, nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "plan is NULL");
  EXPECT_EQ(fa_plan_workspace(nullptr, &bytes, &bytes), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "plan is NULL");
  EXPECT_EQ(fa_workspace_bound(&desc, nullptr, &bytes), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "scratch_bytes is NULL");
  EXPECT_EQ(fa_prepare(nullptr, nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(fa_state_init(nullptr, nullptr, 0, nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(fa_run(nullptr, nullptr, nullptr, nullptr, 0), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(fa_attention(&desc, nullptr, nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "args is NULL");
  EXPECT_EQ(fa_plan_kernel(nullptr), nullptr);
  fa_plan_destroy(nullptr);
}

class DensePlan : public testing::Test {
 protected:
  void SetUp() override {
    const fa_attention_desc desc = dense_desc();
    ASSERT_EQ(fa_plan_create(&desc, &plan_), FA_STATUS_OK) << fa_last_error();
    ASSERT_EQ(fa_plan_workspace(plan_, &scratch_bytes_, &state_bytes_), FA_STATUS_OK);
    memory_ = std::aligned_alloc(64, 2 * (scratch_bytes_ / 64 + 2) * 64);
    fa_workspace_init(&workspace_);
    workspace_.scratch = memory_;
    workspace_.scratch_bytes = scratch_bytes_;
  }
  void TearDown() override {
    fa_plan_destroy(plan_);
    std::free(memory_);
  }

  void expect_refused(const fa_attention_args& args, const fa_workspace* workspace, void* stream, uint32_t flags,
                      const char* part) {
    EXPECT_EQ(fa_run(plan_, &args, workspace, stream, flags), FA_STATUS_INVALID_ARGUMENT);
    EXPECT_TRUE(has(fa_last_error(), part)) << fa_last_error();
    EXPECT_TRUE(data_.is_untouched());
  }

  fa_plan* plan_ = nullptr;
  size_t scratch_bytes_ = 0, state_bytes_ = 0;
  void* memory_ = nullptr;
  fa_workspace workspace_ = {};
  DenseData data_;
};

TEST_F(DensePlan, StreamContextAndFlagsOfACpuRun) {
  int object = 0;
  expect_refused(data_.args(), &workspace_, &object, 0, "must be NULL for a CPU plan");
  expect_refused(data_.args(), &workspace_, nullptr, 2, "run_flags is 0x2 with unknown bits 0x2");
  EXPECT_EQ(fa_prepare(plan_, &object), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_TRUE(has(fa_last_error(), "context is 0x")) << fa_last_error();
  EXPECT_EQ(fa_prepare(plan_, nullptr), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(fa_run(plan_, nullptr, nullptr, nullptr, 0), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "args is NULL");
}

TEST_F(DensePlan, WorkspaceOneByteShortNullOrMisaligned) {
  if (scratch_bytes_ == 0) GTEST_SKIP() << "this plan needs no scratch";
  fa_workspace spoilt = workspace_;
  spoilt.scratch_bytes = scratch_bytes_ - 1;
  const std::string expected = "workspace.scratch_bytes is " + std::to_string(scratch_bytes_ - 1) + " but must be " +
                               std::to_string(scratch_bytes_) + " or more";
  expect_refused(data_.args(), &spoilt, nullptr, 0, expected.c_str());
  spoilt = workspace_;
  spoilt.scratch = nullptr;
  expect_refused(data_.args(), &spoilt, nullptr, 0, "workspace.scratch is NULL but the plan needs");
  spoilt.scratch = static_cast<char*>(memory_) + 8;
  expect_refused(data_.args(), &spoilt, nullptr, 0, "but must be a multiple of 64 bytes");
  expect_refused(data_.args(), nullptr, nullptr, 0, "workspace.scratch_bytes is 0 but must be");
  spoilt = workspace_;
  spoilt.reserved = 9;
  expect_refused(data_.args(), &spoilt, nullptr, 0, "workspace.reserved is 9 but must be 0");
}

TEST_F(DensePlan, WorkspaceInATensor) {
  ASSERT_GT(scratch_bytes_, 0u);
  fa_attention_args args = data_.args();
  args.q = workspace_.scratch;
  expect_refused(args, &workspace_, nullptr, 0, "workspace.scratch (0x");
  expect_refused(args, &workspace_, nullptr, 0, " overlaps q (0x");
  expect_refused(args, &workspace_, nullptr, 0, "but the workspace must share no memory with an input");
}

TEST_F(DensePlan, BadPointersWriteNothing) {
  fa_attention_args args = data_.args();
  args.k = nullptr;
  expect_refused(args, &workspace_, nullptr, 0, "k is NULL but the description needs it");
  args = data_.args();
  args.lse = data_.o.data() + 4;
  expect_refused(args, &workspace_, nullptr, 0, "overlap but must be apart");
}

TEST_F(DensePlan, RunsAndNamesItsKernel) {
  const fa_attention_args args = data_.args();
  EXPECT_EQ(fa_run(plan_, &args, &workspace_, nullptr, 0), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(std::string(fa_plan_kernel(plan_)).rfind("cpu/", 0), 0u) << fa_plan_kernel(plan_);
}

TEST(WorkspaceBound, CoversThePlan) {
  const fa_attention_desc desc = dense_desc();
  fa_plan* plan = nullptr;
  ASSERT_EQ(fa_plan_create(&desc, &plan), FA_STATUS_OK);
  size_t scratch = 0, state = 0, scratch_bound = 0, state_bound = 0;
  ASSERT_EQ(fa_plan_workspace(plan, &scratch, &state), FA_STATUS_OK);
  ASSERT_EQ(fa_workspace_bound(&desc, &scratch_bound, &state_bound), FA_STATUS_OK) << fa_last_error();
  EXPECT_GE(scratch_bound, scratch);
  EXPECT_GE(state_bound, state);
  fa_plan_destroy(plan);
}

TEST(Process, NamesEndWithNull) {
  ASSERT_NE(fa_cpu_isa_name(0), nullptr);
  ASSERT_NE(fa_kernel_name(FA_DEVICE_CPU, 0), nullptr);
  int count = 0;
  while (fa_kernel_name(FA_DEVICE_CPU, count) != nullptr && count < 100) ++count;
  EXPECT_LT(count, 100);
  EXPECT_EQ(fa_kernel_name(FA_DEVICE_CPU, -1), nullptr);
  EXPECT_EQ(fa_kernel_name(5, 0), nullptr);
  EXPECT_EQ(fa_cpu_isa_name(-1), nullptr);
  EXPECT_EQ(fa_cpu_isa_name(1000), nullptr);
}

TEST(Process, DeviceText) {
  char text[4096];
  ASSERT_EQ(fa_device_text(FA_DEVICE_CPU, -1, text, sizeof text, nullptr), FA_STATUS_OK) << fa_last_error();
  EXPECT_TRUE(has(text, ": ")) << text;
  EXPECT_EQ(fa_device_text(9, -1, text, sizeof text, nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_TRUE(has(fa_last_error(), "device_type is 9 but must be FA_DEVICE_CPU (0)")) << fa_last_error();
}

TEST(Process, ThreadSettings) {
  const int32_t initial = fa_get_num_threads();
  EXPECT_GE(initial, 1);
  EXPECT_EQ(fa_set_num_threads(-1), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_TRUE(has(fa_last_error(), "num_threads is -1 but must be 0 (the default) or more")) << fa_last_error();
  EXPECT_EQ(fa_set_num_threads(3), FA_STATUS_OK);
  EXPECT_EQ(fa_get_num_threads(), 3);
  EXPECT_EQ(fa_set_num_threads(0), FA_STATUS_OK);
  EXPECT_EQ(fa_get_num_threads(), initial);
  const auto serial = [](void*, int64_t count, fa_task_fn task, void* context) {
    for (int64_t i = 0; i < count; ++i) task(context, i);
  };
  EXPECT_EQ(fa_set_parallel_for(serial, nullptr, 0), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_TRUE(has(fa_last_error(), "concurrency is 0 but must be 1 or more")) << fa_last_error();
  EXPECT_EQ(fa_set_parallel_for(serial, nullptr, 1), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(fa_set_parallel_for(nullptr, nullptr, 0), FA_STATUS_OK) << fa_last_error();
}

TEST(Process, LogLevel) {
  const auto ignore = [](void*, fa_log_level, const char*) {};
  EXPECT_EQ(fa_set_log(ignore, nullptr, 3), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_TRUE(has(fa_last_error(), "level is 3 but must be FA_LOG_ERROR (0)")) << fa_last_error();
  EXPECT_EQ(fa_set_log(ignore, nullptr, FA_LOG_DEBUG), FA_STATUS_OK);
  EXPECT_EQ(fa_set_log(nullptr, nullptr, FA_LOG_ERROR), FA_STATUS_OK);
}

// What compiles and finds kernels is tested in tests/cuda; here, what is refused.
TEST(Archive, RefusalsNameTheArgument) {
  fa_attention_desc desc = dense_desc();
  const fa_attention_desc* descs[] = {&desc};
  const auto refusal = [&](const char* path, const char* archs, const fa_attention_desc* const* list, int64_t count,
                           int32_t threads) {
    EXPECT_NE(fa_archive_write(path, archs, list, count, threads, nullptr, nullptr), FA_STATUS_OK);
    return std::string(fa_last_error());
  };
  EXPECT_EQ(refusal(nullptr, "sm_80", descs, 1, 0), "path is NULL");
  EXPECT_EQ(refusal("", "sm_80", descs, 1, 0), "path is empty");
  EXPECT_EQ(refusal("x", nullptr, descs, 1, 0), "architectures is NULL");
  EXPECT_EQ(refusal("x", "sm_80", nullptr, 1, 0), "descs is NULL");
  EXPECT_EQ(refusal("x", "sm_80", descs, 0, 0), "count is 0 but must be 1 or more");
  EXPECT_EQ(refusal("x", "sm_80", descs, 1, -1), "num_threads is -1 but must be 0 (all processors) or more");
  EXPECT_EQ(refusal("x", "sm_80", descs, 1, 0), "descs[0]: device_type is 0 but only kernels of FA_DEVICE_CUDA (1) are compiled");
  desc.device_type = FA_DEVICE_CUDA;
  EXPECT_TRUE(has(refusal("x", "sm_80,sm_70", descs, 1, 0), "\"sm_80,sm_70\" with \"sm_70\", but known are: sm_80"))
      << fa_last_error();
  EXPECT_TRUE(has(refusal("x", "", descs, 1, 0), "but known are: sm_80")) << fa_last_error();
  desc.window_left = -7;
  EXPECT_TRUE(has(refusal("x", "sm_80", descs, 1, 0), "descs[0]: window_left is -7")) << fa_last_error();
  EXPECT_EQ(fa_archive_use(""), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(fa_archive_use("/nowhere/x.kernels"), FA_STATUS_COMPILE_ERROR);
  EXPECT_TRUE(has(fa_last_error(), "/nowhere/x.kernels cannot be read: No such file")) << fa_last_error();
  EXPECT_EQ(fa_archive_use(nullptr), FA_STATUS_OK);
}

TEST(Attention, RepeatedAndRefusedCalls) {
  const fa_attention_desc desc = dense_desc();
  DenseData data;
  fa_attention_args args = data.args();
  args.o = nullptr;
  EXPECT_EQ(fa_attention(&desc, &args, nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "o is NULL but the description needs it");
  for (int round = 0; round < 3; ++round) {
    args = data.args();
    EXPECT_EQ(fa_attention(&desc, &args, nullptr), FA_STATUS_OK) << fa_last_error();
  }
  fa_attention_desc forced = desc;
  forced.kernel = "no such kernel";  // differs from the kept plan in its name alone
  EXPECT_EQ(fa_attention(&forced, &args, nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(fa_set_num_threads(1), FA_STATUS_OK);
  EXPECT_EQ(fa_attention(&desc, &args, nullptr), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(fa_set_num_threads(0), FA_STATUS_OK);
}

TEST(Attention, WorksInAForkedChildAfterUseInTheParent) {
  const fa_attention_desc desc = dense_desc();
  DenseData data;
  const fa_attention_args args = data.args();
  ASSERT_EQ(fa_attention(&desc, &args, nullptr), FA_STATUS_OK) << fa_last_error();
  const std::vector<float> expected = data.o;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);  // a pool that waits for threads it no longer has would wait for ever
    std::fill(data.o.begin(), data.o.end(), -7.0f);
    const bool ok = fa_attention(&desc, &args, nullptr) == FA_STATUS_OK && data.o == expected;
    _exit(ok ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

}  // namespace
}  // namespace flash_attn::test
