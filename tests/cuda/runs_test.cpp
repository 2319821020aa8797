// How GPU plans run: capture into graphs, refusals to compile, threads and streams side by side, hostile tables, and sizes past 32
// bits.
#include "tests/cuda/device_run.h"
#include "tests/support/reference.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <thread>

namespace flash_attn::test {
namespace {

CaseSpec decode_spec(int64_t d = 64) {
  CaseSpec spec = {.name = "runs", .batch = 3, .s_q = 5, .s_k = 300, .h_q = 4, .h_k = 2, .d = d, .mask_kind = FA_MASK_CAUSAL};
  spec.key_layout = KeyLayout::paged;
  spec.lengths_k = {300, 17, 129};
  return spec;
}

// Head dims that no other test here has, so that nothing has loaded the kernels before.
constexpr int64_t kDimOfForbidden = 32, kDimOfCaptured = 96;

// What one plan has made ready serves another.
TEST(Runs, NothingIsCompiledWhereForbidden) {
  TestProblem problem(decode_spec(kDimOfForbidden), FA_DTYPE_BF16, 1);
  DeviceProblem device(problem, Placement::aligned);
  const DeviceStream stream;
  const PlanHandle plan(device.desc(), {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  const DeviceWorkspace workspace(plan.get(), &device, stream);
  EXPECT_EQ(fa_run(plan.get(), &device.args(), workspace.get(), stream.get(), FA_RUN_NO_COMPILE), FA_STATUS_COMPILE_ERROR);
  EXPECT_NE(std::string(fa_last_error()).find("call fa_prepare before"), std::string::npos) << fa_last_error();
  EXPECT_EQ(fa_run(plan.get(), &device.args(), workspace.get(), stream.get(), 0), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(fa_run(plan.get(), &device.args(), workspace.get(), stream.get(), FA_RUN_NO_COMPILE), FA_STATUS_OK) << fa_last_error();
  const PlanHandle another(device.desc(), {});
  EXPECT_EQ(fa_run(another.get(), &device.args(), workspace.get(), stream.get(), FA_RUN_NO_COMPILE), FA_STATUS_OK)
      << fa_last_error();
  stream.synchronize();
}

// A captured run may be replayed, also with other lengths in the same memory.
TEST(Runs, CapturedIntoAGraph) {
  const cuda::Driver& driver = require_gpu();
  TestProblem problem(decode_spec(kDimOfCaptured), FA_DTYPE_BF16, 2);
  const Reference reference = make_reference(problem);
  DeviceProblem device(problem, Placement::aligned);
  const DeviceStream stream;
  const PlanHandle plan(device.desc(), {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  const DeviceWorkspace workspace(plan.get(), &device, stream);
  cuda::CUgraph graph = nullptr;
  ASSERT_EQ(driver.cuStreamBeginCapture(stream.get(), cuda::kCaptureModeThreadLocal), cuda::kCudaSuccess);
  EXPECT_EQ(fa_run(plan.get(), &device.args(), workspace.get(), stream.get(), 0), FA_STATUS_COMPILE_ERROR);
  EXPECT_NE(std::string(fa_last_error()).find("the stream is being captured"), std::string::npos) << fa_last_error();
  ASSERT_EQ(driver.cuStreamEndCapture(stream.get(), &graph), cuda::kCudaSuccess);
  driver.cuGraphDestroy(graph);

  ASSERT_EQ(fa_prepare(plan.get(), nullptr), FA_STATUS_OK) << fa_last_error();
  ASSERT_EQ(driver.cuStreamBeginCapture(stream.get(), cuda::kCaptureModeThreadLocal), cuda::kCudaSuccess);
  ASSERT_EQ(fa_run(plan.get(), &device.args(), workspace.get(), stream.get(), 0), FA_STATUS_OK) << fa_last_error();
  ASSERT_EQ(driver.cuStreamEndCapture(stream.get(), &graph), cuda::kCudaSuccess);
  cuda::CUgraphExec replay = nullptr;
  ASSERT_EQ(driver.cuGraphInstantiateWithFlags(&replay, graph, 0), cuda::kCudaSuccess);
  const auto used = reinterpret_cast<cuda::CUdeviceptr>(device.args().seqused_k);
  const int32_t none[3] = {0, 0, 0};
  for (int round = 0; round < 2; ++round) {
    device.upload();
    copy_to_device(used, none, sizeof none);
    ASSERT_EQ(driver.cuGraphLaunch(replay, stream.get()), cuda::kCudaSuccess);
    stream.synchronize();
    device.download();
    for (const float x : problem.read_outputs(reference.rows).o) ASSERT_EQ(x, 0.0f);
    device.upload();
    ASSERT_EQ(driver.cuGraphLaunch(replay, stream.get()), cuda::kCudaSuccess);
    stream.synchronize();
    EXPECT_EQ(device.download(), "");
    EXPECT_EQ(compare(problem, reference, problem.read_outputs(reference.rows)), "");
  }
  driver.cuGraphExecDestroy(replay);
  driver.cuGraphDestroy(graph);
}

// Four threads, each with a stream, data and workspace of its own, on one plan.
TEST(Runs, ThreadsShareAPlan) {
  constexpr int kThreads = 4;
  std::vector<std::unique_ptr<TestProblem>> problems;
  std::vector<std::unique_ptr<DeviceProblem>> devices;
  for (int n = 0; n < kThreads; ++n) {
    problems.push_back(std::make_unique<TestProblem>(decode_spec(), FA_DTYPE_F16, 10 + n));
    devices.push_back(std::make_unique<DeviceProblem>(*problems[n], Placement::aligned));
  }
  const PlanHandle plan(devices[0]->desc(), {});
  ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  std::vector<std::string> faults(kThreads);
  std::vector<std::thread> threads;
  for (int n = 0; n < kThreads; ++n) {
    threads.emplace_back([&, n] {
      require_gpu_on_this_thread();
      const DeviceStream stream;
      const DeviceWorkspace workspace(plan.get(), devices[n].get(), stream);
      for (int round = 0; round < 20; ++round) {
        if (fa_run(plan.get(), &devices[n]->args(), workspace.get(), stream.get(), 0) != FA_STATUS_OK) faults[n] = fa_last_error();
      }
      stream.synchronize();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int n = 0; n < kThreads; ++n) {
    EXPECT_EQ(faults[n], "");
    EXPECT_EQ(devices[n]->download(), "");
    const Reference reference = make_reference(*problems[n]);
    EXPECT_EQ(compare(*problems[n], reference, problems[n]->read_outputs(reference.rows)), "");
  }
}

// Lengths and tables from nowhere: results mean nothing, but only o and lse are written and nothing outside the tensors is read.
class Hostile : public ::testing::TestWithParam<int32_t> {};

TEST_P(Hostile, TablesTouchNothingOutside) {
  for (const KeyLayout layout : {KeyLayout::dense, KeyLayout::packed, KeyLayout::paged}) {
    CaseSpec spec = {.name = "hostile", .batch = 3, .s_q = 40, .s_k = 150, .h_q = 4, .h_k = 2, .d = 64};
    spec.query_layout = layout == KeyLayout::dense ? QueryLayout::dense : QueryLayout::packed;
    spec.key_layout = layout;
    spec.mask_kind = FA_MASK_PER_REQUEST;
    spec.tree_size = 20;
    spec.diagonal = FA_DIAGONAL_OFFSET_PER_REQUEST;
    spec.window_left = 30;
    spec.seqused_q = spec.seqused_k = true;
    spec.leftpad = 4;
    spec.cache_batch_idx = layout == KeyLayout::dense;
    spec.lengths_q = {40, 7, 12};
    spec.lengths_k = {150, 64, 31};
    TestProblem problem(spec, FA_DTYPE_BF16, 3);
    DeviceProblem device(problem, Placement::aligned);
    const DeviceStream stream;
    const PlanHandle plan(device.desc(), {});
    ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
    const fa_attention_args& a = device.args();
    for (const int32_t* table : {a.cu_seqlens_q, a.cu_seqlens_k, a.seqused_q, a.seqused_k, a.leftpad_k, a.cache_batch_idx,
                                 a.mask_kinds, a.diagonal_offsets, a.tree_sizes, a.block_table}) {
      if (table == nullptr) continue;
      const DeviceWorkspace workspace(plan.get(), &device, stream);
      device.upload();
      const std::vector<int32_t> values(table == a.block_table ? 3 * static_cast<size_t>(device.desc().block_table.shape[1]) : 3,
                                        GetParam());
      copy_to_device(reinterpret_cast<cuda::CUdeviceptr>(table), values.data(), values.size() * 4);
      ASSERT_EQ(fa_run(plan.get(), &a, workspace.get(), stream.get(), 0), FA_STATUS_OK) << fa_last_error();
      stream.synchronize();
      copy_to_device(reinterpret_cast<cuda::CUdeviceptr>(table), device.original(table), values.size() * 4);
      EXPECT_EQ(device.download(), "");
      problem.reset_outputs();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Values, Hostile,
                         ::testing::Values(-1, 77, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()));

TEST(Sizes, ManyRequestsAndHeads) {
  for (const bool by_heads : {false, true}) {
    CaseSpec spec = {.name = "many", .batch = by_heads ? 1 : 70000, .s_q = 1, .s_k = 3, .h_q = by_heads ? 70000 : 1, .d = 16};
    spec.h_k = spec.h_q;
    TestProblem problem(spec, FA_DTYPE_BF16, 4);
    const Reference reference = make_reference(problem, 300);
    DeviceProblem device(problem, Placement::aligned);
    const DeviceStream stream;
    const DeviceRun run = run_on_device(&problem, &device, stream, reference.rows);
    ASSERT_EQ(run.status, FA_STATUS_OK) << run.message;
    EXPECT_EQ(run.fault, "");
    EXPECT_EQ(compare(problem, reference, run.outputs, 0.02), "");
  }
}

// Rows a whole gigabyte apart: offsets past 2^31 elements in q, k, v and o.
TEST(Sizes, MoreThan32BitsOfElements) {
  const cuda::Driver& driver = require_gpu();
  constexpr int64_t kRows = 5, kDim = 64, kFar = int64_t{1} << 29;
  size_t free_bytes = 0, all_bytes = 0;
  ASSERT_EQ(driver.cuMemGetInfo(&free_bytes, &all_bytes), cuda::kCudaSuccess);
  if (free_bytes < size_t{20} << 30) GTEST_SKIP() << "needs 20 GiB of free device memory";
  CaseSpec spec = {.name = "far", .s_q = kRows, .s_k = kRows, .d = kDim, .mask_kind = FA_MASK_CAUSAL, .lse = false};
  TestProblem problem(spec, FA_DTYPE_BF16, 5);
  const Reference reference = make_reference(problem);
  fa_attention_desc desc = problem.desc();
  fa_attention_args args = problem.args();
  desc.device_type = FA_DEVICE_CUDA;
  desc.kernel = forced_kernel();
  cuda::CUdeviceptr memory[4] = {};
  fa_tensor_desc* tensors[] = {&desc.q, &desc.k, &desc.v, &desc.o};
  const void* sources[] = {args.q, args.k, args.v, args.o};
  for (int n = 0; n < 4; ++n) {
    ASSERT_EQ(driver.cuMemAlloc(&memory[n], 2 * ((kRows - 1) * kFar + kDim)), cuda::kCudaSuccess);
    for (int64_t row = 0; row < kRows; ++row)
      copy_to_device(memory[n] + 2 * row * kFar, static_cast<const char*>(sources[n]) + 2 * row * kDim, 2 * kDim);
    tensors[n]->stride[1] = kFar;
    tensors[n]->stride[0] = kRows * kFar;
    tensors[n]->alignment = 16;
  }
  args.q = reinterpret_cast<void*>(memory[0]);
  args.k = reinterpret_cast<void*>(memory[1]);
  args.v = reinterpret_cast<void*>(memory[2]);
  args.o = reinterpret_cast<void*>(memory[3]);
  const DeviceStream stream;
  ASSERT_EQ(fa_attention(&desc, &args, stream.get()), FA_STATUS_OK) << fa_last_error();
  stream.synchronize();
  for (int64_t row = 0; row < kRows; ++row)
    driver.cuMemcpyDtoH(static_cast<char*>(problem.args().o) + 2 * row * kDim, memory[3] + 2 * row * kFar, 2 * kDim);
  EXPECT_EQ(compare(problem, reference, problem.read_outputs(reference.rows), 0.02), "");
  for (const cuda::CUdeviceptr part : memory) driver.cuMemFree(part);
}

}  // namespace
}  // namespace flash_attn::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  flash_attn::test::require_gpu();
  return RUN_ALL_TESTS();
}
