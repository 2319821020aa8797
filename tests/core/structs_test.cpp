// struct_size across versions of the ABI: an older caller's shorter struct, a newer caller's longer one, and nonsense.
#include "tests/core/valid_desc.h"

#include "api/structs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

namespace flash_attn::test {
namespace {

// A description inside a larger block, as a newer caller has it.
struct LongerDesc {
  fa_attention_desc desc = dense_desc();
  unsigned char more[64] = {};

  fa_status validate(uint32_t more_bytes) {
    desc.struct_size = static_cast<uint32_t>(sizeof desc) + more_bytes;
    return fa_validate(&desc);
  }
};

TEST(StructSize, InitFillsDefaults) {
  fa_attention_desc desc;
  std::memset(static_cast<void*>(&desc), 0xFF, sizeof desc);
  ASSERT_EQ(fa_attention_desc_init(&desc), FA_STATUS_OK);
  EXPECT_EQ(desc.struct_size, sizeof desc);
  EXPECT_EQ(desc.device_index, -1);
  EXPECT_EQ(desc.window_left, -1);
  EXPECT_EQ(desc.window_right, -1);
  EXPECT_TRUE(std::isnan(desc.scale));
  EXPECT_EQ(desc.q.dtype, FA_DTYPE_NONE);
  EXPECT_EQ(desc.dslopes.dtype, FA_DTYPE_NONE);
  EXPECT_EQ(desc.kernel, nullptr);
  fa_attention_args args;
  ASSERT_EQ(fa_attention_args_init(&args), FA_STATUS_OK);
  EXPECT_EQ(args.struct_size, sizeof args);
  EXPECT_EQ(args.dslopes, nullptr);
  fa_workspace workspace;
  ASSERT_EQ(fa_workspace_init(&workspace), FA_STATUS_OK);
  EXPECT_EQ(workspace.struct_size, sizeof workspace);
}

TEST(StructSize, InitRefusesNull) {
  EXPECT_EQ(fa_attention_desc_init(nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "desc is NULL");
  EXPECT_EQ(fa_attention_args_init(nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "args is NULL");
  EXPECT_EQ(fa_workspace_init(nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "workspace is NULL");
}

TEST(StructSize, ShorterStructsGetDefaults) {
  // Bytes past an older caller's struct are another's memory: here they would be refused if read.
  fa_attention_desc desc = dense_desc();
  constexpr size_t kOlder = offsetof(fa_attention_desc, dout);
  std::memset(reinterpret_cast<char*>(&desc) + kOlder, 0xFF, offsetof(fa_attention_desc, kernel) - kOlder);
  desc.struct_size = kOlder;
  EXPECT_EQ(fa_validate(&desc), FA_STATUS_OK) << fa_last_error();
  desc.struct_size = sizeof desc;
  EXPECT_EQ(fa_validate(&desc), FA_STATUS_INVALID_ARGUMENT);
}

TEST(StructSize, LongerStructsMustBeZeroBeyond) {
  LongerDesc longer;
  EXPECT_EQ(longer.validate(64), FA_STATUS_OK) << fa_last_error();
  longer.more[40] = 1;
  EXPECT_EQ(longer.validate(40), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(longer.validate(48), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(std::string(fa_last_error()).find("byte " + std::to_string(sizeof(fa_attention_desc) + 40) + " is set"),
            std::string::npos)
      << fa_last_error();
}

TEST(StructSize, NonsenseIsRefused) {
  const uint32_t known = sizeof(fa_attention_desc);
  for (const uint32_t size : {0u, 4u, 100u, known - 1, known + 3, known + 8000, 0xFFFFFFFFu}) {
    fa_attention_desc desc = dense_desc();
    desc.struct_size = size;
    EXPECT_EQ(fa_validate(&desc), FA_STATUS_INVALID_ARGUMENT);
    EXPECT_EQ(fa_last_error(), "desc->struct_size is " + std::to_string(size) + " but must be " + std::to_string(known) +
                                   ", as fa_attention_desc_init sets it");
  }
}

TEST(StructSize, ArgsAndWorkspace) {
  const fa_attention_desc desc = dense_desc();
  fa_plan* plan = nullptr;
  ASSERT_EQ(fa_plan_create(&desc, &plan), FA_STATUS_OK) << fa_last_error();
  fa_attention_args args;
  fa_attention_args_init(&args);
  args.struct_size = 12;
  EXPECT_EQ(fa_run(plan, &args, nullptr, nullptr, 0), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(std::string(fa_last_error()).find("args->struct_size is 12 but must be"), std::string::npos) << fa_last_error();
  fa_attention_args_init(&args);
  fa_workspace workspace;
  fa_workspace_init(&workspace);
  workspace.struct_size = 8;
  EXPECT_EQ(fa_run(plan, &args, &workspace, nullptr, 0), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(std::string(fa_last_error()).find("workspace->struct_size is 8 but must be 40"), std::string::npos) << fa_last_error();
  fa_plan_destroy(plan);
}

TEST(StructSize, CurrentStructsAreNotCopied) {
  const fa_attention_desc desc = dense_desc();
  fa_attention_desc storage;
  const fa_attention_desc* usable = nullptr;
  ASSERT_TRUE(api::adopt(&desc, &storage, &usable).ok());
  EXPECT_EQ(usable, &desc);
}

}  // namespace
}  // namespace flash_attn::test
