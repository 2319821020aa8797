// Planning the backward kernels without a GPU: for every backward row and several kinds of device, choices fit the device, the
// warps' shares are whole, and workspaces are linear in length and within their bound.
#include "cuda/entries/entry.h"
#include "cuda/entries/sm80_bwd_config.h"
#include "cuda/entries/sm90_bwd_config.h"
#include "tests/cuda/planned_problem.h"
#include "tests/support/backward_problem.h"
#include "tests/support/tensor_layout.h"

#include <gtest/gtest.h>

#include <memory>

namespace flash_attn::test {
namespace {

using cuda::BackwardRole;
using cuda::DeviceInfo;
using cuda::Sm80BackwardChoice;
using cuda::Sm80BackwardConfig;
using cuda::Sm90BackwardConfig;

// A dense problem without data.
fa_attention_desc dense_desc(int64_t batch, int64_t s_q, int64_t s_k, int64_t h_q, int64_t h_k, int64_t d, uint32_t flags,
                             int64_t d_v) {
  fa_attention_desc desc = {};
  fa_attention_desc_init(&desc);
  desc.direction = FA_BACKWARD;
  desc.flags = flags;
  desc.q = desc.dq = contiguous_tensor(FA_DTYPE_BF16, {batch, s_q, h_q, d});
  desc.o = desc.dout = contiguous_tensor(FA_DTYPE_BF16, {batch, s_q, h_q, d_v});
  desc.k = desc.dk = contiguous_tensor(FA_DTYPE_BF16, {batch, s_k, h_k, d});
  desc.v = desc.dv = contiguous_tensor(FA_DTYPE_BF16, {batch, s_k, h_k, d_v});
  desc.lse = contiguous_tensor(FA_DTYPE_F32, {batch, h_q, s_q});
  return desc;
}
Problem dense_problem(int64_t batch, int64_t s_q, int64_t s_k, int64_t h_q, int64_t h_k, int64_t d, uint32_t flags) {
  return problem_of(dense_desc(batch, s_q, s_k, h_q, h_k, d, flags, d));
}

size_t planned_bytes(const Problem& problem, const DeviceInfo& device) {
  Plan* raw = nullptr;
  EXPECT_TRUE(cuda::kSm80BackwardEntry.plan(problem, device, &raw).ok());
  const std::unique_ptr<Plan> plan(raw);
  return plan->workspace().scratch_bytes;
}

size_t bound_bytes(const Problem& problem, const DeviceInfo& device) {
  return cuda::bound_sm80_backward_workspace(problem, device).scratch_bytes;
}

void expect_whole_shares(const Sm80BackwardConfig& c, const std::string& text) {
  EXPECT_EQ(c.tile_q, 16 * c.score_warps * c.score_strips()) << text;
  EXPECT_EQ(c.tile_k, 8 * (c.warps / c.score_warps) * c.score_tiles()) << text;
  EXPECT_EQ(c.tile_k, 16 * c.key_warps * c.key_strips()) << text;
  EXPECT_EQ(c.padded_d(), 8 * (c.warps / c.key_warps) * c.dk_tiles()) << text;
  EXPECT_EQ(c.padded_d_v(), 8 * (c.warps / c.key_warps) * c.dv_tiles()) << text;
  EXPECT_EQ(c.tile_q, 16 * c.query_warps * c.query_strips()) << text;
  EXPECT_EQ(c.padded_d(), 8 * (c.warps / c.query_warps) * c.dq_tiles()) << text;
  if (c.dtype == DType::f32) return;
  // Tensor cores take 16 columns at a time.
  for (const int tiles : {c.score_tiles(), c.dk_tiles(), c.dv_tiles(), c.dq_tiles()}) EXPECT_EQ(tiles % 2, 0) << text;
}

TEST(Sm80BackwardPlan, ChoicesFitTheDevice) {
  for (const CaseSpec& spec : backward_cases()) {
    if (!(spec.labels & kTest) || spec.d > 256 || spec.value_dim() > 256) continue;
    for (const fa_dtype dtype : dtype_list(spec.dtypes)) {
      const BackwardProblem built(spec, dtype, 1);
      const Problem problem = problem_of(built.desc());
      for (const DeviceInfo& device : kDevices) {
        Sm80BackwardChoice choice;
        const Status status = cuda::configure_sm80_backward(problem, device, &choice);
        ASSERT_TRUE(status.ok()) << status.message() << built.text();
        bool makes_dq = false;
        for (const Sm80BackwardConfig& c : choice.kernels) {
          EXPECT_LE(c.shared_bytes(), device.shared_bytes) << built.text();
          EXPECT_LE(c.blocks_per_sm * (c.shared_bytes() + kKb), device.shared_bytes_per_sm) << built.text();
          EXPECT_EQ(choice.shape.stat_tile % c.tile_q, 0) << built.text();
          expect_whole_shares(c, built.text());
          makes_dq = makes_dq || c.sums_dq || c.role == BackwardRole::queries;
        }
        EXPECT_TRUE(makes_dq) << built.text();
        EXPECT_LE(planned_bytes(problem, device), bound_bytes(problem, device)) << built.text();
      }
    }
  }
}

// Every head dim divides among the warps.
TEST(Sm80BackwardPlan, EveryHeadDim) {
  for (int64_t d = 1; d <= 256; ++d) {
    for (const uint32_t flags : {0u, uint32_t{FA_FLAG_DETERMINISTIC}}) {
      const Problem problem = dense_problem(1, 70, 90, 2, 1, d, flags);
      for (const DeviceInfo& device : kDevices) {
        Sm80BackwardChoice choice;
        ASSERT_TRUE(cuda::configure_sm80_backward(problem, device, &choice).ok());
        for (const Sm80BackwardConfig& c : choice.kernels) expect_whole_shares(c, "d " + std::to_string(d));
      }
    }
  }
}

TEST(Sm80BackwardPlan, BoundHoldsBelowAndIsLinear) {
  for (const uint32_t flags : {0u, uint32_t{FA_FLAG_DETERMINISTIC}}) {
    for (const DeviceInfo& device : kDevices) {
      const size_t bound = bound_bytes(dense_problem(4, 200, 3000, 8, 4, 128, flags), device);
      for (const int64_t batch : {1, 3, 4}) {
        for (const int64_t s_q : {1, 63, 65, 129, 200}) {
          for (const int64_t d : {16, 40, 72, 128})
            EXPECT_LE(planned_bytes(dense_problem(batch, s_q, 3000, 8, 4, d, flags), device), bound)
                << batch << " " << s_q << " " << d;
        }
      }
      const size_t once = planned_bytes(dense_problem(2, 4096, 4096, 8, 4, 128, flags), device);
      EXPECT_EQ(planned_bytes(dense_problem(2, 8192, 8192, 8, 4, 128, flags), device), 2 * once);
    }
  }
}

// dq has no order of additions where determinism is asked for: a kernel of its own makes it.
TEST(Sm80BackwardPlan, DeterminismHasNoSums) {
  Sm80BackwardChoice choice;
  ASSERT_TRUE(
      cuda::configure_sm80_backward(dense_problem(1, 128, 128, 2, 2, 64, FA_FLAG_DETERMINISTIC), kDevices[2], &choice).ok());
  EXPECT_EQ(choice.shape.sums_d, 0);
  for (const Sm80BackwardConfig& c : choice.kernels) EXPECT_FALSE(c.sums_dq);
}

// Whatever the dims, tiles fit, and the warp groups together make all of dq.
TEST(Sm90BackwardPlan, EveryPairOfHeadDims) {
  const DeviceInfo& device = kDevices[2];
  for (int64_t d = 8; d <= 256; d += 8) {
    for (int64_t d_v = 8; d_v <= 256; d_v += 8) {
      for (int n = 0; n < 8; ++n) {
        fa_attention_desc desc = dense_desc(1, 70, 90, 2, 1, d, n & 1 ? FA_FLAG_DETERMINISTIC : 0, d_v);
        if (n & 2) desc.dropout_p = 0.1f;
        if (n & 4) desc.alibi = contiguous_tensor(FA_DTYPE_F32, {2});
        const Problem problem = problem_of(desc);
        const Status status = cuda::supports_sm90_backward(problem, device);
        ASSERT_TRUE(status.ok()) << status.message();
        const Sm90BackwardConfig c = cuda::configure_sm90_backward(problem);
        ASSERT_LE(cuda::Sm90BackwardLayout(c).total, device.shared_bytes) << d << " " << d_v << " " << n;
        ASSERT_EQ(c.dq_slabs(0) + c.dq_slabs(1), c.is_wide() ? c.slabs() : 2);
        ASSERT_LE(c.dq_slabs(0), 2);
      }
    }
  }
}

TEST(Sm90BackwardPlan, BoundHolds) {
  const DeviceInfo& device = kDevices[2];
  for (const uint32_t flags : {0u, uint32_t{FA_FLAG_DETERMINISTIC}}) {
    for (const int64_t d : {64, 128, 256}) {
      const size_t bound =
          cuda::kSm90BackwardEntry.workspace_bound(dense_problem(4, 200, 3000, 8, 4, d, flags), device).scratch_bytes;
      for (const int64_t s_q : {1, 63, 65, 129, 200}) {
        Plan* raw = nullptr;
        ASSERT_TRUE(cuda::kSm90BackwardEntry.plan(dense_problem(4, s_q, 3000, 8, 4, d, flags), device, &raw).ok());
        const std::unique_ptr<Plan> plan(raw);
        EXPECT_LE(plan->workspace().scratch_bytes, bound) << d << " " << s_q;
      }
    }
  }
}

TEST(Sm90BackwardPlan, RefusalsSayWhatIsServed) {
  const Status status = cuda::supports_sm90_backward(dense_problem(1, 4, 8, 1, 1, 264, 0), kDevices[2]);
  EXPECT_EQ(status.code(), FA_STATUS_UNSUPPORTED);
  EXPECT_EQ(status.message(), "d is 264 but GPU kernels serve 1 to 256");
}

TEST(Sm90BackwardPlan, SchedulesAreForcedByName) {
  Problem problem = dense_problem(1, 512, 512, 4, 4, 128, 0);
  EXPECT_EQ(cuda::configure_sm90_backward(problem).dq_lag, 0);
  problem.kernel = "sm90_bwd:dq_lag=1,polynomial_exp=2";
  EXPECT_TRUE(cuda::supports_sm90_backward(problem, kDevices[2]).ok());
  EXPECT_EQ(cuda::configure_sm90_backward(problem).dq_lag, 1);
  EXPECT_EQ(cuda::configure_sm90_backward(problem).polynomial_exp, 2);
  for (const char* const kernel :
       {"sm90_bwd:dq_lag=2", "sm90_bwd:dout_stages=3", "sm90_bwd:polynomial_exp=5", "sm90_bwd:stages=2"}) {
    problem.kernel = kernel;
    EXPECT_EQ(cuda::supports_sm90_backward(problem, kDevices[2]).code(), FA_STATUS_INVALID_ARGUMENT) << kernel;
  }
  problem = dense_problem(1, 512, 512, 4, 4, 128, FA_FLAG_DETERMINISTIC);
  problem.kernel = "sm90_bwd:stages_dq=0";
  EXPECT_TRUE(cuda::supports_sm90_backward(problem, kDevices[2]).ok());
  EXPECT_FALSE(cuda::configure_sm90_backward(problem).stages_dq);
}

TEST(Sm80BackwardPlan, RefusalsSayWhatIsServed) {
  const Status status = cuda::kSm80BackwardEntry.supports(dense_problem(1, 4, 8, 1, 1, 300, 0), kDevices[2]);
  EXPECT_EQ(status.code(), FA_STATUS_UNSUPPORTED);
  EXPECT_EQ(status.message(), "d is 300 but GPU kernels serve 1 to 256");
}

}  // namespace
}  // namespace flash_attn::test
