// Planning without a GPU: for every test row and every kind of device, choices fit the device, workspaces fit their bound, and
// where asked for nothing depends on other requests.
#include "cuda/entries/entry.h"
#include "cuda/entries/sm80_config.h"
#include "tests/cuda/planned_problem.h"
#include "tests/support/problem_builder.h"
#include "tests/support/tensor_layout.h"

#include <gtest/gtest.h>

#include <memory>

namespace flash_attn::test {
namespace {

using cuda::DeviceInfo;
using cuda::Sm80ForwardConfig;

// A dense problem without data.
Problem dense_problem(const CaseSpec& spec) {
  fa_attention_desc desc = {};
  fa_attention_desc_init(&desc);
  desc.q = contiguous_tensor(FA_DTYPE_BF16, {spec.batch, spec.s_q, spec.h_q, spec.d});
  desc.k = contiguous_tensor(FA_DTYPE_BF16, {spec.batch, spec.s_k, spec.h_k, spec.d});
  desc.v = desc.k;
  desc.o = desc.q;
  desc.mask_kind = spec.mask_kind;
  desc.diagonal = spec.diagonal;
  desc.flags = spec.flags;
  desc.num_splits = spec.num_splits;
  desc.split_size = spec.split_size;
  return problem_of(desc);
}

std::vector<CaseSpec> served_rows() {
  std::vector<CaseSpec> rows;
  for (const CaseSpec& spec : all_cases()) {
    if ((spec.labels & kTest) && spec.d <= 256 && spec.value_dim() <= 256) rows.push_back(spec);
  }
  return rows;
}

size_t planned_bytes(const Problem& problem, const DeviceInfo& device) {
  Plan* raw = nullptr;
  EXPECT_TRUE(cuda::kSm80ForwardEntry.plan(problem, device, &raw).ok());
  const std::unique_ptr<Plan> plan(raw);
  return plan->workspace().scratch_bytes;
}

TEST(Sm80Plan, ChoicesFitTheDevice) {
  for (const CaseSpec& spec : served_rows()) {
    for (const fa_dtype dtype : dtype_list(spec.dtypes)) {
      const TestProblem built(spec, dtype, 1);
      const Problem problem = problem_of(built.desc());
      for (const DeviceInfo& device : kDevices) {
        Sm80ForwardConfig config;
        int splits = 0;
        const Status status = cuda::configure_sm80(problem, device, &config, &splits);
        ASSERT_TRUE(status.ok()) << status.message() << built.text();
        EXPECT_LE(config.shared_bytes(), device.shared_bytes) << built.text();
        EXPECT_EQ(config.tile_q % (16 * config.warps), 0) << built.text();
        EXPECT_EQ(config.tile_k % 16, 0) << built.text();
        EXPECT_EQ(config.has_splits, splits > 1) << built.text();
        EXPECT_LE(planned_bytes(problem, device), cuda::bound_sm80_workspace(problem, device).scratch_bytes) << built.text();
      }
    }
  }
}

// Every smaller problem's workspace fits the bound of the larger one.
TEST(Sm80Plan, BoundHoldsBelow) {
  for (const int splits : {0, 3}) {
    for (const int64_t size : {0, 100}) {
      if (splits > 0 && size > 0) continue;
      CaseSpec most = {.name = "most", .batch = 4, .s_q = 200, .s_k = 3000, .h_q = 8, .h_k = 4, .d = 128};
      most.num_splits = splits;
      most.split_size = size;
      for (const DeviceInfo& device : kDevices) {
        const size_t bound = cuda::bound_sm80_workspace(dense_problem(most), device).scratch_bytes;
        for (const int64_t batch : {1, 3, 4}) {
          for (const int64_t s_q : {1, 63, 65, 129, 200}) {
            for (const int64_t s_k : {1, 700, 3000}) {
              for (const int64_t d : {16, 72, 128}) {
                CaseSpec spec = most;
                spec.batch = batch;
                spec.s_q = s_q;
                spec.s_k = s_k;
                spec.d = d;
                EXPECT_LE(planned_bytes(dense_problem(spec), device), bound) << spec;
              }
            }
          }
        }
      }
    }
  }
}

TEST(Sm80Plan, BatchInvariantChoicesKnowNothingOfOthers) {
  for (const DeviceInfo& device : kDevices) {
    Sm80ForwardConfig first;
    int splits = 0;
    for (const int64_t batch : {1, 2, 64}) {
      for (const int64_t s_q : {1, 70, 400}) {
        CaseSpec spec = {.name = "invariant", .batch = batch, .s_q = s_q, .s_k = 2000, .h_q = 4, .h_k = 2, .d = 64};
        spec.mask_kind = FA_MASK_CAUSAL;
        spec.flags = FA_FLAG_BATCH_INVARIANT;
        Sm80ForwardConfig config;
        ASSERT_TRUE(cuda::configure_sm80(dense_problem(spec), device, &config, &splits).ok());
        EXPECT_EQ(splits, 1);
        if (batch == 1 && s_q == 1) first = config;
        EXPECT_TRUE(config == first) << spec;
      }
    }
  }
}

TEST(Sm80Plan, FewTilesAreSplit) {
  CaseSpec spec = {.name = "decode", .s_q = 1, .s_k = 16000, .h_q = 8, .h_k = 2, .d = 128};
  Sm80ForwardConfig config;
  int splits = 0;
  ASSERT_TRUE(cuda::configure_sm80(dense_problem(spec), kDevices[2], &config, &splits).ok());
  EXPECT_GE(splits, 32);
  EXPECT_EQ(config.mask, cuda::KeyMask::none);
}

WorkspaceSize hopper_workspace(const Problem& problem, const DeviceInfo& device) {
  Plan* raw = nullptr;
  const Status status = cuda::kSm90ForwardEntry.plan(problem, device, &raw);
  EXPECT_TRUE(status.ok()) << status.message();
  return std::unique_ptr<Plan>(raw)->workspace();
}

// Few rows, whose splits the kernel merges itself: state counts them.
TEST(Sm90Plan, BoundHoldsBelow) {
  for (const int splits : {0, 3}) {
    for (const int64_t size : {0, 100}) {
      if (splits > 0 && size > 0) continue;
      CaseSpec most = {.name = "most", .batch = 40, .s_q = 9, .s_k = 70000, .h_q = 32, .h_k = 8, .d = 128};
      most.num_splits = splits;
      most.split_size = size;
      for (const DeviceInfo& device : kDevices) {
        if (device.compute_capability != 90) continue;
        const WorkspaceSize bound = cuda::kSm90ForwardEntry.workspace_bound(dense_problem(most), device);
        for (const int64_t batch : {1, 7, 40}) {
          for (const int64_t s_q : {1, 2, 9}) {
            for (const int64_t s_k : {1, 60, 700, 70000}) {
              for (const int64_t d : {16, 72, 128}) {
                CaseSpec spec = most;
                spec.batch = batch;
                spec.s_q = s_q;
                spec.s_k = s_k;
                spec.d = d;
                const WorkspaceSize needed = hopper_workspace(dense_problem(spec), device);
                EXPECT_LE(needed.scratch_bytes, bound.scratch_bytes) << spec;
                EXPECT_LE(needed.state_bytes, bound.state_bytes) << spec;
              }
            }
          }
        }
      }
    }
  }
}

// Decoding: one request is cut so that about every multiprocessor has work; the kernel merges that itself, and counts per tile.
TEST(Sm90Plan, SplitsAreMergedWithinTheLaunch) {
  const CaseSpec spec = {.name = "decode", .s_q = 1, .s_k = 16000, .h_q = 32, .h_k = 8, .d = 128};
  for (const DeviceInfo& device : kDevices) {
    if (device.compute_capability != 90) continue;
    const Problem problem = dense_problem(spec);
    std::vector<cuda::KernelRequest> kernels;
    ASSERT_TRUE(cuda::kSm90ForwardEntry.kernels(problem, device, &kernels).ok());
    ASSERT_EQ(kernels.size(), 1u);
    EXPECT_NE(kernels[0].name.find("merges_splits=1"), std::string::npos) << kernels[0].name;
    const WorkspaceSize size = hopper_workspace(problem, device);
    EXPECT_GE(size.scratch_bytes, device.multiprocessors / 2 * 4 * (128 + 2) * sizeof(float));
    EXPECT_EQ(size.state_bytes, (2 + 8) * sizeof(unsigned));
  }
}

const DeviceInfo& hopper() { return kDevices[2]; }

std::string hopper_text(const CaseSpec& spec) {
  Plan* raw = nullptr;
  const Problem problem = dense_problem(spec);
  const Status status = cuda::kSm90ForwardEntry.plan(problem, hopper(), &raw);
  EXPECT_TRUE(status.ok()) << status.message();
  return std::unique_ptr<Plan>(raw)->text();
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

// Splits and keys of a step of 132 multiprocessors: one wave of blocks, merged within the launch where that was measured to pay.
TEST(Sm90Plan, SplitsFillOneWave) {
  struct Row {
    int64_t batch, s_q, s_k, h_q, h_k, d;
    int splits;
    bool merges;
    int tile_k;
  };
  for (const Row& row : {Row{1, 1, 1024, 32, 8, 128, 16, true, 64}, Row{1, 1, 131072, 32, 8, 128, 16, true, 128},
                         Row{16, 1, 8192, 32, 8, 128, 1, false, 128}, Row{16, 1, 32768, 64, 8, 128, 1, false, 128},
                         Row{32, 1, 8192, 32, 8, 64, 1, false, 128}, Row{8, 4, 4096, 32, 8, 128, 2, false, 128},
                         Row{1, 1, 131072, 16, 4, 128, 33, false, 128}, Row{1, 1, 1024, 16, 4, 128, 16, true, 64}}) {
    CaseSpec spec = {.name = "wave", .batch = row.batch, .s_q = row.s_q, .s_k = row.s_k, .h_q = row.h_q, .h_k = row.h_k};
    spec.d = row.d;
    const std::string text = hopper_text(spec);
    EXPECT_TRUE(contains(text, " " + std::to_string(row.splits) + " splits")) << spec << text;
    EXPECT_TRUE(contains(text, row.merges ? "merges_splits=1" : "merges_splits=0")) << text;
    EXPECT_TRUE(contains(text, row.splits > 1 && !row.merges ? "row_warps=0" : "row_warps=1")) << text;
    EXPECT_TRUE(contains(text, " tile_k=" + std::to_string(row.tile_k) + " ")) << text;
  }
}

TEST(Sm90Plan, ThreeBlocksShareAMultiprocessorOverVeryFewKeys) {
  CaseSpec spec = {.name = "few", .batch = 9, .s_q = 648, .s_k = 18, .h_q = 16, .h_k = 2, .d = 64};
  EXPECT_TRUE(contains(hopper_text(spec), "groups=1 tile_k=32 "));
  for (const int64_t s_q : {1, 64, 65, 648}) {
    for (const int64_t s_k : {1, 32, 33, 64}) {
      spec.s_q = s_q;
      spec.s_k = s_k;
      const std::string text = hopper_text(spec);
      EXPECT_TRUE(contains(text, "blocks_per_sm=3 consumer_registers=112 producer_registers=48")) << spec << text;
      EXPECT_TRUE(contains(text, s_k > 32 ? "groups=1 tile_k=64 " : "groups=1 tile_k=32 ")) << spec << text;
    }
  }
  spec.s_k = 65;
  EXPECT_FALSE(contains(hopper_text(spec), "blocks_per_sm=3"));
  spec.s_k = 64;
  spec.flags = FA_FLAG_BATCH_INVARIANT;
  EXPECT_FALSE(contains(hopper_text(spec), "blocks_per_sm=3"));
  spec.flags = 0;
  spec.d = 72;
  EXPECT_FALSE(contains(hopper_text(spec), "blocks_per_sm=3"));
  // The diagonal leaves no row more than 23 of many keys.
  spec = {.name = "hidden", .batch = 9, .s_q = 23, .s_k = 4052, .h_q = 224, .h_k = 14, .d = 64};
  EXPECT_FALSE(contains(hopper_text(spec), "blocks_per_sm=3"));
  spec.mask_kind = FA_MASK_CAUSAL;
  spec.diagonal = FA_DIAGONAL_TOP_LEFT;
  EXPECT_TRUE(contains(hopper_text(spec), "groups=1 tile_k=32 ")) << hopper_text(spec);
  EXPECT_TRUE(contains(hopper_text(spec), "blocks_per_sm=3"));
}

TEST(Sm80Plan, RefusalsSayWhatIsServed) {
  const TestProblem built({.name = "wide", .s_q = 4, .s_k = 8, .d = 300}, FA_DTYPE_BF16, 1);
  const Status status = cuda::kSm80ForwardEntry.supports(problem_of(built.desc()), kDevices[2]);
  EXPECT_EQ(status.code(), FA_STATUS_UNSUPPORTED);
  EXPECT_EQ(status.message(), "d is 300 but GPU kernels serve 1 to 256");
}

}  // namespace
}  // namespace flash_attn::test
