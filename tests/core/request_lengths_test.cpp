// What the description declares of a request's lengths and mask, against what the arguments of a CPU run hold.
#include "tests/core/valid_desc.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace flash_attn::test {
namespace {

struct PagedRun {
  std::vector<float> q = std::vector<float>(2 * 3 * 4 * 8, 0.5f);
  std::vector<float> k = std::vector<float>(11 * 4 * 2 * 8, 0.25f);
  std::vector<float> v = std::vector<float>(11 * 4 * 2 * 6, 1.0f);
  std::vector<float> o = std::vector<float>(2 * 3 * 4 * 6, -7.0f);
  std::vector<float> lse = std::vector<float>(2 * 4 * 3, -7.0f);
  std::vector<int32_t> table = {0, 1, 2, 3, 4, 5};

  fa_attention_args args() {
    fa_attention_args args;
    fa_attention_args_init(&args);
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    args.o = o.data();
    args.lse = lse.data();
    args.block_table = table.data();
    return args;
  }
};

// Keys past a declared max_s_k do not exist, even if the table has room for them.
TEST(RequestLengths, DeclaredMaximumCutsWhatTheTableCanHold) {
  fa_attention_desc desc = paged_desc();
  desc.max_s_k = 10;
  PagedRun run;
  const fa_attention_args args = run.args();
  ASSERT_EQ(fa_attention(&desc, &args, nullptr), FA_STATUS_OK) << fa_last_error();
  const float cut = run.lse[0];
  desc.inputs = FA_INPUT_SEQUSED_K;
  const int32_t used[2] = {10, 10};
  fa_attention_args explicit_args = run.args();
  explicit_args.seqused_k = used;
  ASSERT_EQ(fa_attention(&desc, &explicit_args, nullptr), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(cut, run.lse[0]);
  const int32_t too_long[2] = {10, 11};
  explicit_args.seqused_k = too_long;
  EXPECT_EQ(fa_attention(&desc, &explicit_args, nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(fa_last_error()), "seqused_k[1] is 11 but must be 0 to 10");
}

TEST(RequestLengths, TreeKindNeedsATreeMask) {
  fa_attention_desc desc = paged_desc();
  desc.mask_kind = FA_MASK_PER_REQUEST;
  PagedRun run;
  fa_attention_args args = run.args();
  int32_t kinds[2] = {FA_MASK_CAUSAL, FA_MASK_FULL};
  args.mask_kinds = kinds;
  EXPECT_EQ(fa_attention(&desc, &args, nullptr), FA_STATUS_OK) << fa_last_error();
  std::fill(run.o.begin(), run.o.end(), -7.0f);
  kinds[1] = FA_MASK_TREE;
  EXPECT_EQ(fa_attention(&desc, &args, nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(std::string(fa_last_error()).find("mask_kinds[1] is 2"), std::string::npos) << fa_last_error();
  EXPECT_EQ(run.o, std::vector<float>(run.o.size(), -7.0f));
}

}  // namespace
}  // namespace flash_attn::test
