// What a run asks of the driver and of the host's allocator after prepare: launches, and nothing that allocates, waits or reads
// back. Every test row on every kernel, against a driver that writes down its calls and a compiler that takes no time.
#include "tests/cuda/device_run.h"
#include "tests/cuda/recording/recording.h"
#include "tests/support/allocation_count.h"

#include <gtest/gtest.h>

#include <set>

namespace flash_attn::test {
namespace {

const Recording& recording() {
  static const Recording made;
  return made;
}

// The stream's context, tensor maps (host work), launches.
const std::set<std::string> kAllowed = {"cuStreamGetCtx", "cuTensorMapEncodeTiled", "cuTensorMapReplaceAddress",
                                        "cuLaunchKernelEx"};

struct RunCalls {
  std::map<std::string, long> calls;
  int64_t allocations = 0;
};

RunCalls record_run(const fa_plan* plan, const DeviceProblem& device, const DeviceWorkspace& workspace,
                    const DeviceStream& stream) {
  RunCalls found;
  recording().clear();
  start_counting();
  const fa_status status = fa_run(plan, &device.args(), workspace.get(), stream.get(), 0);
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

TEST(RecordedRun, TheRecordingSeesTheLibrary) {
  TestProblem problem({.name = "seen", .s_q = 40, .s_k = 40}, FA_DTYPE_BF16, 1);
  DeviceProblem device(problem, Placement::aligned);
  const PlanHandle plan(device.desc(), {});
  recording().clear();
  start_counting();
  ASSERT_EQ(fa_prepare(plan.get(), nullptr), FA_STATUS_OK) << fa_last_error();
  EXPECT_GT(stop_counting(), 0) << "prepare compiles; a hook that misses it proves nothing";
  EXPECT_GE(recording().calls()["cuLibraryLoadData"], 1);
}

TEST(RecordedRun, AfterPrepareOnlyLaunches) {
  std::set<std::string> used;
  for (int32_t n = 0; fa_kernel_name(FA_DEVICE_CUDA, n) != nullptr; ++n) {
    const std::string kernel = fa_kernel_name(FA_DEVICE_CUDA, n);
    for (const CaseSpec& spec : all_cases()) {
      if (!(spec.labels & kTest)) continue;
      for (const fa_dtype dtype : dtype_list(spec.dtypes)) {
        TestProblem problem(spec, dtype, 1);
        DeviceProblem device(problem, Placement::aligned, kernel);
        const DeviceStream stream;
        const PlanHandle plan(device.desc(), {});
        if (plan.status() == FA_STATUS_UNSUPPORTED) continue;
        ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
        ASSERT_EQ(fa_prepare(plan.get(), nullptr), FA_STATUS_OK) << fa_last_error();
        const DeviceWorkspace workspace(plan.get(), &device, stream);
        const RunCalls run = record_run(plan.get(), device, workspace, stream);
        EXPECT_EQ(faults_of(run), "") << kernel << " in " << problem.text();
        EXPECT_TRUE(run.calls.count("cuLaunchKernelEx") > 0 || !has_rows(spec)) << kernel << " in " << problem.text();
        used.insert(fa_plan_kernel(plan.get()));
      }
    }
  }
  EXPECT_GE(used.size(), 1u);
}

// Without prepare the first run does its work; the second is then as any other.
TEST(RecordedRun, TheSecondRunWithoutPrepareTooOnlyLaunches) {
  TestProblem problem({.name = "second", .s_q = 77, .s_k = 40, .d = 96, .softcap = 7}, FA_DTYPE_F16, 1);
  DeviceProblem device(problem, Placement::aligned);
  const DeviceStream stream;
  const PlanHandle plan(device.desc(), {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  const DeviceWorkspace workspace(plan.get(), &device, stream);
  EXPECT_NE(faults_of(record_run(plan.get(), device, workspace, stream)), "");
  EXPECT_EQ(faults_of(record_run(plan.get(), device, workspace, stream)), "");
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
