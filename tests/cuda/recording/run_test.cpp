// What a run asks of the driver and of the host's allocator after prepare: launches, and nothing that allocates, waits or reads
// back. Every test row on every kernel, against a driver that writes down its calls and a compiler that takes no time.
#include "tests/cuda/device_run.h"
#include "tests/cuda/recording/recording.h"
#include "tests/support/allocation_count.h"
#include "tests/support/backward_problem.h"

#include <gtest/gtest.h>

#include <set>

namespace flash_attn::test {
namespace {

const Recording& recording() {
  static const Recording made;
  return made;
}

// The stream's context, tensor maps (host work), launches, and zeros written on the stream.
const std::set<std::string> kAllowed = {"cuStreamGetCtx", "cuTensorMapEncodeTiled", "cuTensorMapReplaceAddress", "cuLaunchKernelEx",
                                        "cuMemsetD8Async"};

struct RunCalls {
  std::map<std::string, long> calls;
  int64_t allocations = 0;
};

RunCalls record_run(const fa_plan* plan, const fa_attention_args& args, const PlannedWorkspace& workspace,
                    const DeviceStream& stream) {
  RunCalls found;
  recording().clear();
  start_counting();
  const fa_status status = fa_run(plan, &args, workspace.get(), stream.get(), 0);
  found.allocations = stop_counting();
  found.calls = recording().calls();
  EXPECT_EQ(status, FA_STATUS_OK) << fa_last_error();
  return found;
}

// Allocations and calls of making a plan. Most: the plan, the room's part of it, and one in reserve.
constexpr int64_t kMostPlanAllocations = 3;
// Where the room chooses among its kernels, one that refuses says why.
constexpr int64_t kMostRefusalAllocations = 2;
const std::set<std::string> kAllowedOfPlan = {"cuCtxGetDevice"};

RunCalls record_plan(const fa_attention_desc& desc, fa_plan** plan) {
  RunCalls found;
  recording().clear();
  start_counting();
  const fa_status status = fa_plan_create(&desc, plan);
  found.allocations = stop_counting();
  found.calls = recording().calls();
  EXPECT_EQ(status, FA_STATUS_OK) << fa_last_error();
  return found;
}

std::string faults_of(const RunCalls& run) {
  std::string faults;
  if (run.allocations > 0) faults += " " + std::to_string(run.allocations) + " allocations";
  for (const auto& [name, count] : run.calls)
    if (kAllowed.count(name) == 0) faults += " " + name;
  return faults;
}

bool has_rows(const CaseSpec& spec) {
  for (const int64_t rows : query_lengths(spec))
    if (rows > 0) return true;
  return false;
}

// The device's memory is the host's, so that a problem's own pointers serve.
template <class AnyProblem>
fa_attention_desc device_desc(const AnyProblem& problem, const char* kernel = nullptr) {
  fa_attention_desc desc = problem.desc();
  desc.device_type = FA_DEVICE_CUDA;
  desc.num_threads = 0;
  desc.kernel = kernel;
  return desc;
}

// Programs plan anew for each call: that must stay cheap, and the first run of a plan like one that was prepared is as any other.
template <class AnyProblem>
void check_planning(const AnyProblem& problem, const char* kernel, const PlannedWorkspace& workspace, const DeviceStream& stream) {
  fa_plan* plan = nullptr;
  const RunCalls planning = record_plan(device_desc(problem, kernel), &plan);
  EXPECT_LE(planning.allocations, kMostPlanAllocations + (kernel ? 0 : kMostRefusalAllocations)) << problem.text();
  for (const auto& [name, count] : planning.calls) EXPECT_EQ(kAllowedOfPlan.count(name), 1u) << name << " in " << problem.text();
  EXPECT_EQ(faults_of(record_run(plan, problem.args(), workspace, stream)), "") << "first run of " << problem.text();
  fa_plan_destroy(plan);
}

// False if the kernel refuses the problem.
template <class AnyProblem>
bool check_run(const AnyProblem& problem, const char* kernel) {
  const DeviceStream stream;
  const PlanHandle plan(device_desc(problem, kernel), {});
  if (plan.status() == FA_STATUS_UNSUPPORTED) return false;
  EXPECT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error() << problem.text();
  EXPECT_EQ(fa_prepare(plan.get(), nullptr), FA_STATUS_OK) << fa_last_error() << problem.text();
  const PlannedWorkspace workspace(plan.get());
  const RunCalls run = record_run(plan.get(), problem.args(), workspace, stream);
  EXPECT_EQ(faults_of(run), "") << kernel << " in " << problem.text();
  EXPECT_TRUE(run.calls.count("cuLaunchKernelEx") > 0 || !has_rows(problem.spec())) << kernel << " in " << problem.text();
  check_planning(problem, kernel, workspace, stream);
  return true;
}

template <class AnyProblem>
int check_rows(const std::vector<CaseSpec>& rows, const char* kernel) {
  int served = 0;
  for (const CaseSpec& spec : rows) {
    if (!(spec.labels & kTest)) continue;
    for (const fa_dtype dtype : dtype_list(spec.dtypes))
      served += check_run(AnyProblem(spec, dtype, 1, GuardedBuffer::Edge::begin), kernel) ? 1 : 0;
  }
  return served;
}

TEST(RecordedRun, TheRecordingSeesTheLibrary) {
  const TestProblem problem({.name = "seen", .s_q = 40, .s_k = 40}, FA_DTYPE_BF16, 1);
  const PlanHandle plan(device_desc(problem), {});
  recording().clear();
  start_counting();
  ASSERT_EQ(fa_prepare(plan.get(), nullptr), FA_STATUS_OK) << fa_last_error();
  EXPECT_GT(stop_counting(), 0) << "prepare compiles; a hook that misses it proves nothing";
  EXPECT_GE(recording().calls()["cuLibraryLoadData"], 1);
}

// A kernel that serves nothing here would be tested by nobody.
TEST(RecordedRun, AfterPrepareOnlyLaunches) {
  for (int32_t n = 0; fa_kernel_name(FA_DEVICE_CUDA, n) != nullptr; ++n) {
    const char* const kernel = fa_kernel_name(FA_DEVICE_CUDA, n);
    EXPECT_GT(check_rows<TestProblem>(all_cases(), kernel) + check_rows<BackwardProblem>(backward_cases(), kernel), 0) << kernel;
  }
}

// The same where the room chooses the kernel.
TEST(RecordedRun, AChoiceAmongKernelsAsksForLittle) {
  for (const CaseSpec& spec : all_cases()) {
    if (!(spec.labels & kTest)) continue;
    for (const fa_dtype dtype : dtype_list(spec.dtypes)) {
      const TestProblem problem(spec, dtype, 1, GuardedBuffer::Edge::begin);
      const DeviceStream stream;
      const PlanHandle plan(device_desc(problem), {});
      if (plan.status() == FA_STATUS_UNSUPPORTED) continue;
      ASSERT_EQ(fa_prepare(plan.get(), nullptr), FA_STATUS_OK) << fa_last_error() << problem.text();
      check_planning(problem, nullptr, PlannedWorkspace(plan.get()), stream);
    }
  }
}

// On GPUs as on CPUs, and before anything is launched.
TEST(RecordedRun, AWorkspaceInATensorIsRefused) {
  const TestProblem problem({.name = "lent", .s_q = 1, .s_k = 8000, .d = 64, .lse = true}, FA_DTYPE_BF16, 1);
  fa_attention_desc desc = device_desc(problem);
  desc.num_splits = 4;
  const DeviceStream stream;
  const PlanHandle plan(desc, {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  const PlannedWorkspace planned(plan.get());
  ASSERT_GT(planned.get()->scratch_bytes, 0u);
  fa_attention_args args = problem.args();
  args.v = planned.get()->scratch;
  recording().clear();
  EXPECT_EQ(fa_run(plan.get(), &args, planned.get(), stream.get(), 0), FA_STATUS_INVALID_ARGUMENT);
  const std::string message = fa_last_error();
  EXPECT_NE(message.find("workspace.scratch (0x"), std::string::npos) << message;
  EXPECT_NE(message.find(" overlaps v (0x"), std::string::npos) << message;
  EXPECT_EQ(recording().calls().count("cuLaunchKernelEx"), 0u);
}

// Without prepare the first run does its work; the second is then as any other.
TEST(RecordedRun, TheSecondRunWithoutPrepareTooOnlyLaunches) {
  const TestProblem problem({.name = "second", .s_q = 77, .s_k = 40, .d = 96, .softcap = 7}, FA_DTYPE_F16, 1,
                            GuardedBuffer::Edge::begin);
  const DeviceStream stream;
  const PlanHandle plan(device_desc(problem), {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  const PlannedWorkspace workspace(plan.get());
  EXPECT_NE(faults_of(record_run(plan.get(), problem.args(), workspace, stream)), "");
  EXPECT_EQ(faults_of(record_run(plan.get(), problem.args(), workspace, stream)), "");
}

}  // namespace
}  // namespace flash_attn::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (!flash_attn::test::recording().works()) {
    std::printf("libcuda.so.1 is not the recording driver\n");
    return 1;
  }
  flash_attn::test::require_gpu();
  return RUN_ALL_TESTS();
}
