// The workspace that backward plans ask for: linear in the length, whatever the bias, and within fa_workspace_bound.
#include "tests/support/runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace flash_attn::test {
namespace {

struct Shape {
  int64_t batch = 1, s_q = 1024, s_k = 1024, h_q = 1, h_k = 1, d = 64, d_v = 64;
};

fa_tensor_desc dense(fa_dtype dtype, int64_t b, int64_t s, int64_t h, int64_t d) {
  return {dtype, 4, {b, s, h, d}, {s * h * d, h * d, d, 1}, 0};
}

fa_attention_desc backward_desc(const Shape& shape, fa_dtype dtype) {
  fa_attention_desc desc;
  fa_attention_desc_init(&desc);
  desc.direction = FA_BACKWARD;
  desc.num_threads = 2;
  desc.q = desc.dq = dense(dtype, shape.batch, shape.s_q, shape.h_q, shape.d);
  desc.k = desc.dk = dense(dtype, shape.batch, shape.s_k, shape.h_k, shape.d);
  desc.v = desc.dv = dense(dtype, shape.batch, shape.s_k, shape.h_k, shape.d_v);
  desc.o = desc.dout = dense(dtype, shape.batch, shape.s_q, shape.h_q, shape.d_v);
  desc.lse = {FA_DTYPE_F32, 3, {shape.batch, shape.h_q, shape.s_q}, {shape.h_q * shape.s_q, shape.s_q, 1}, 0};
  return desc;
}

int64_t scratch_of(const fa_attention_desc& desc) {
  const PlanHandle plan(desc, {});
  EXPECT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
  size_t scratch = 0, state = 0;
  EXPECT_EQ(fa_plan_workspace(plan.get(), &scratch, &state), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(state, 0u);
  return static_cast<int64_t>(scratch);
}

class BackwardWorkspace : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(fa_set_num_threads(2), FA_STATUS_OK); }
  void TearDown() override { fa_set_num_threads(0); }
};

// What docs/notes promises: sums of dK and dV in fp32, four times their size or 256 MB at most, one head's for each thread, and a
// few megabytes that depend on the head dims alone.
TEST_F(BackwardWorkspace, IsLinearInTheLength) {
  constexpr int64_t kMegabyte = 1 << 20;
  for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16}) {
    for (const int64_t heads : {1, 8, 64, 100}) {
      for (const int64_t d : {64, 256}) {
        for (int64_t s = 1024; s <= 1 << 20; s *= 4) {
          const int64_t scratch =
              scratch_of(backward_desc({.s_q = s, .s_k = s, .h_q = heads, .h_k = heads, .d = d, .d_v = d}, dtype));
          const int64_t gradients = s * heads * 2 * d * 4;
          EXPECT_LE(scratch, std::max(4 * gradients, 256 * kMegabyte) + 2 * gradients / heads + 12 * kMegabyte)
              << "s " << s << ", heads " << heads << ", d " << d;
        }
      }
    }
  }
}

TEST_F(BackwardWorkspace, FewQueriesOfManyKeysNeedOneHeadAThread) {
  const int64_t scratch = scratch_of(backward_desc({.s_q = 1, .s_k = 1 << 20, .h_q = 32, .h_k = 32}, FA_DTYPE_F32));
  EXPECT_LE(scratch, 2 * (int64_t{1} << 20) * 128 * 4 + (8 << 20));
}

// A bias gradient of the size of all scores that heads and requests share needs no scratch of that size.
TEST_F(BackwardWorkspace, BiasGradientNeedsNone) {
  const Shape shape{.batch = 2, .s_q = 8192, .s_k = 8192, .h_q = 4, .h_k = 2};
  const int64_t without = scratch_of(backward_desc(shape, FA_DTYPE_F32));
  for (const int64_t batch : {int64_t{1}, shape.batch}) {
    for (const int64_t heads : {int64_t{1}, shape.h_q}) {
      fa_attention_desc desc = backward_desc(shape, FA_DTYPE_F32);
      const int64_t s = shape.s_q;
      desc.bias = desc.dbias = {FA_DTYPE_F32, 4, {batch, heads, s, s}, {heads * s * s, s * s, s, 1}, 0};
      EXPECT_LE(scratch_of(desc), without + 4096) << "batch " << batch << ", heads " << heads;
    }
  }
}

TEST_F(BackwardWorkspace, BoundCoversSmallerProblems) {
  const Shape most{.batch = 3, .s_q = 700, .s_k = 900, .h_q = 8, .h_k = 8, .d = 128, .d_v = 96};
  for (const fa_dtype dtype : {FA_DTYPE_F32, FA_DTYPE_BF16}) {
    for (const uint32_t flags : {0u, static_cast<uint32_t>(FA_FLAG_BATCH_INVARIANT)}) {
      fa_attention_desc maxima = backward_desc(most, dtype);
      maxima.flags = flags;
      size_t scratch = 0, state = 0;
      ASSERT_EQ(fa_workspace_bound(&maxima, &scratch, &state), FA_STATUS_OK) << fa_last_error();
      for (const int64_t batch : {1, 3}) {
        for (const int64_t s_q : {1, 64, 257, 700}) {
          for (const int64_t s_k : {1, 130, 900}) {
            for (const int64_t h_k : {1, 2, 8}) {
              for (const int64_t h_q : {h_k, int64_t{8}}) {
                for (const int64_t d : {1, 33, 128}) {
                  const Shape shape{.batch = batch, .s_q = s_q, .s_k = s_k, .h_q = h_q, .h_k = h_k, .d = d, .d_v = d < 96 ? d : 96};
                  fa_attention_desc desc = backward_desc(shape, dtype);
                  desc.flags = flags;
                  ASSERT_LE(scratch_of(desc), static_cast<int64_t>(scratch))
                      << batch << ' ' << s_q << ' ' << s_k << ' ' << h_q << ' ' << h_k << ' ' << d;
                }
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace flash_attn::test
