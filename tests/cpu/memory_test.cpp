// Memory of a long run: what a process gains beyond inputs and outputs, workspace and threads included, by the operating system's
// own count. Cut short by a window, which changes neither row blocks nor workspace; that is checked too.
#include "tests/support/problem_builder.h"
#include "tests/support/runner.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace flash_attn::test {
namespace {

constexpr int64_t kLength = 32768, kHeads = 8, kDim = 128;
constexpr int64_t kBudget = 64 << 20;

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, FreeMemory>;

// Written to, so that it counts.
Memory touched(size_t bytes, int value) {
  Memory memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  if (memory) std::memset(memory.get(), value, bytes);
  return memory;
}

int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

fa_attention_desc long_desc(fa_dtype dtype, const char* isa) {
  fa_attention_desc desc;
  fa_attention_desc_init(&desc);
  desc.q = {dtype, 4, {1, kLength, kHeads, kDim}, {kLength * kHeads * kDim, kHeads * kDim, kDim, 1}, 0};
  desc.k = desc.v = desc.o = desc.q;
  desc.mask_kind = FA_MASK_CAUSAL;
  desc.num_threads = 2;
  desc.isa = isa;
  return desc;
}

size_t scratch_of(const fa_attention_desc& desc) {
  const PlanHandle plan(desc, {});
  size_t scratch = 0, state = 0;
  EXPECT_EQ(fa_plan_workspace(plan.get(), &scratch, &state), FA_STATUS_OK) << fa_last_error();
  return scratch;
}

TEST(Memory, ThirtyTwoThousandTokensInSixtyFourMegabytes) {
  ASSERT_EQ(fa_set_num_threads(2), FA_STATUS_OK);
  const size_t bytes = static_cast<size_t>(kLength * kHeads * kDim) * 2;
  const Memory q = touched(bytes, 0x3c), k = touched(bytes, 0x3c), v = touched(bytes, 0x3c), o = touched(bytes, 0);
  ASSERT_TRUE(q && k && v && o) << "this test needs " << 4 * bytes << " bytes";
  fa_attention_args args;
  fa_attention_args_init(&args);
  args.q = q.get();
  args.k = k.get();
  args.v = v.get();
  args.o = o.get();
  size_t most_scratch = 0;
  const int64_t before = peak_bytes();
  for (int i = 0; fa_cpu_isa_name(i) != nullptr; ++i) {
    for (const fa_dtype dtype : {FA_DTYPE_BF16, FA_DTYPE_F16}) {
      fa_attention_desc desc = long_desc(dtype, fa_cpu_isa_name(i));
      const size_t full_scratch = scratch_of(desc);
      desc.window_left = 255;
      const PlanHandle plan(desc, {});
      ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
      fa_workspace workspace;
      fa_workspace_init(&workspace);
      size_t state = 0;
      ASSERT_EQ(fa_plan_workspace(plan.get(), &workspace.scratch_bytes, &state), FA_STATUS_OK);
      EXPECT_EQ(workspace.scratch_bytes, full_scratch);
      EXPECT_EQ(state, 0U);
      const Memory scratch = touched(workspace.scratch_bytes, 0xFF);
      workspace.scratch = scratch.get();
      ASSERT_EQ(fa_run(plan.get(), &args, &workspace, nullptr, 0), FA_STATUS_OK) << fa_last_error();
      most_scratch = std::max(most_scratch, workspace.scratch_bytes);
    }
  }
  const int64_t growth = peak_bytes() - before;
  EXPECT_LT(growth, kBudget);
  EXPECT_GE(growth, static_cast<int64_t>(most_scratch) / 2) << "the system's count misses the workspace";
  RecordProperty("growth_bytes", std::to_string(growth));
  fa_set_num_threads(0);
}

}  // namespace
}  // namespace flash_attn::test
