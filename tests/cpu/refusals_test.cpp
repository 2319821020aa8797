// What the CPU room does not serve is refused as unsupported, by name, from every function that plans; the descriptions are valid.
#include "tests/support/backward_problem.h"
#include "tests/support/check.h"

#include <gtest/gtest.h>

#include <string>

namespace flash_attn::test {
namespace {

const CaseSpec& base() {
  static const CaseSpec spec = {
      .name = "refused", .batch = 2, .s_q = 2, .s_k = 30, .h_q = 2, .h_k = 2, .d = 16, .lengths_k = {20, 11}};
  return spec;
}

fa_tensor_desc rows4(fa_dtype dtype, int64_t rows, int64_t heads, int64_t dim) {
  return {dtype, 4, {2, rows, heads, dim}, {rows * heads * dim, heads * dim, dim, 1}, 0};
}

void expect_refused(const fa_attention_desc& desc, const std::string& name) {
  EXPECT_EQ(fa_validate(&desc), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(fa_supports(&desc), FA_STATUS_UNSUPPORTED) << name;
  EXPECT_NE(std::string(fa_last_error()).find(name), std::string::npos) << fa_last_error();
  fa_plan* plan = reinterpret_cast<fa_plan*>(&plan);
  EXPECT_EQ(fa_plan_create(&desc, &plan), FA_STATUS_UNSUPPORTED) << name;
  EXPECT_EQ(plan, nullptr);
  char text[4096];
  EXPECT_EQ(fa_explain(&desc, text, sizeof text, nullptr), FA_STATUS_OK) << fa_last_error();
  EXPECT_NE(std::string(text).find(name), std::string::npos) << text;
}

TEST(Refusals, Append) {
  TestProblem problem(base(), FA_DTYPE_F32, 1);
  fa_attention_desc desc = problem.desc();
  desc.k_new = rows4(FA_DTYPE_F32, 1, 2, 16);
  desc.v_new = rows4(FA_DTYPE_F32, 1, 2, 16);
  expect_refused(desc, "k_new");
}

TEST(Refusals, ScoreMod) {
  TestProblem problem(base(), FA_DTYPE_F32, 1);
  fa_attention_desc desc = problem.desc();
  desc.score_mod = "score * 2";
  expect_refused(desc, "score_mod");
}

TEST(Refusals, Float8) {
  TestProblem problem(base(), FA_DTYPE_BF16, 1);
  for (const fa_dtype dtype : {FA_DTYPE_F8E4M3, FA_DTYPE_F8E5M2}) {
    fa_attention_desc desc = problem.desc();
    desc.q.dtype = desc.k.dtype = desc.v.dtype = dtype;
    expect_refused(desc, "f8");
  }
}

// A kernel serves one direction.
TEST(Refusals, KernelsOfTheOtherDirection) {
  fa_attention_desc desc = BackwardProblem(backward_of(base()), FA_DTYPE_F32, 1).desc();
  for (const std::string& kernel : kernel_names()) {
    desc.kernel = kernel.c_str();
    expect_refused(desc, kernel);
  }
  desc.kernel = kBackwardKernel;
  EXPECT_EQ(fa_supports(&desc), FA_STATUS_OK) << fa_last_error();
  TestProblem problem(base(), FA_DTYPE_F32, 1);
  desc = problem.desc();
  desc.kernel = kBackwardKernel;
  expect_refused(desc, kBackwardKernel);
}

TEST(Refusals, HeadDimsAbove512) {
  CaseSpec spec = base();
  spec.d = 513;
  spec.d_v = 16;
  expect_refused(TestProblem(spec, FA_DTYPE_F32, 1).desc(), "d is 513");
  spec.d = 16;
  spec.d_v = 600;
  expect_refused(TestProblem(spec, FA_DTYPE_F32, 1).desc(), "d_v is 600");
}

// A forced name is taken or refused, never replaced.
TEST(Refusals, UnknownNames) {
  TestProblem problem(base(), FA_DTYPE_F32, 1);
  fa_attention_desc desc = problem.desc();
  desc.kernel = "no_such_kernel";
  EXPECT_NE(fa_supports(&desc), FA_STATUS_OK);
  EXPECT_NE(std::string(fa_last_error()).find("no_such_kernel"), std::string::npos) << fa_last_error();
  desc.kernel = nullptr;
  desc.isa = "no_such_isa";
  EXPECT_NE(fa_supports(&desc), FA_STATUS_OK);
  EXPECT_NE(std::string(fa_last_error()).find("no_such_isa"), std::string::npos) << fa_last_error();
}

// Instruction sets that exist elsewhere but not here are unsupported, not unknown.
TEST(Refusals, InstructionSetsOfOtherMachines) {
  TestProblem problem(base(), FA_DTYPE_F32, 1);
  const std::vector<std::string> here = isa_names();
  for (const char* name : {"baseline", "neon", "avx2", "avx512", "avx512_bf16", "amx_bf16"}) {
    fa_attention_desc desc = problem.desc();
    desc.isa = name;
    const bool is_here = std::find(here.begin(), here.end(), name) != here.end();
    EXPECT_EQ(fa_supports(&desc), is_here ? FA_STATUS_OK : FA_STATUS_UNSUPPORTED) << name << ": " << fa_last_error();
  }
}

}  // namespace
}  // namespace flash_attn::test
