// Classes of problems, forced schedules, and the tuned table: that boundaries are counted in tiles and blocks, that what makes no
// kernel is refused in words, and that every row of the table makes one.
#include "cuda/entries/sm90_tuned.h"
#include "cuda/entries/tuning.h"
#include "cuda/known_devices.h"
#include "tests/support/tensor_layout.h"

#include <gtest/gtest.h>

namespace flash_attn::test {
namespace {

using namespace cuda;

DeviceInfo h200() { return known_devices("sm_90a").front(); }

struct Case {
  int64_t b, rows, keys, heads, d;
};

fa_attention_desc desc_of(const Case& c) {
  fa_attention_desc desc = {};
  fa_attention_desc_init(&desc);
  desc.device_type = FA_DEVICE_CUDA;
  desc.q = desc.o = contiguous_tensor(FA_DTYPE_BF16, {c.b, c.rows, c.heads, c.d});
  desc.k = desc.v = contiguous_tensor(FA_DTYPE_BF16, {c.b, c.keys, c.heads, c.d});
  return desc;
}

std::string class_of(const fa_attention_desc& desc, const DeviceInfo& device = h200()) {
  Problem problem;
  const Status status = make_problem(desc, &problem);
  EXPECT_TRUE(status.ok()) << status.message();
  return class_text(classify(problem, device));
}

std::string class_of_case(const Case& c) { return class_of(desc_of(c)); }

TEST(Classes, DimsAreRoundedUp) {
  for (const auto& [d, text] : {std::pair{1, "90, 64, 64"},
                                {64, "90, 64, 64"},
                                {65, "90, 96, 96"},
                                {128, "90, 128, 128"},
                                {130, "90, 192, 192"},
                                {193, "90, 256, 256"},
                                {256, "90, 256, 256"}})
    EXPECT_EQ(class_of_case({1, 300, 300, 4, d}).rfind(text, 0), 0u) << d << ": " << class_of_case({1, 300, 300, 4, d});
}

TEST(Classes, RowsWorkAndKeysAreCountedInTilesAndBlocks) {
  EXPECT_EQ(class_of_case({1, 128, 1024, 4, 64}), "90, 64, 64, none, plain, low, light, few");
  EXPECT_EQ(class_of_case({1, 129, 1025, 4, 64}), "90, 64, 64, none, plain, tall, light, some");
  EXPECT_EQ(class_of_case({1, 129, 4097, 4, 64}), "90, 64, 64, none, plain, tall, light, many");
  EXPECT_EQ(class_of_case({1, 128, 128, 263, 64}), "90, 64, 64, none, plain, low, light, few");
  EXPECT_EQ(class_of_case({1, 128, 128, 264, 64}), "90, 64, 64, none, plain, low, full, few");  // two tiles for each of 132
  fa_attention_desc limited = desc_of({1, 128, 128, 100, 64});
  limited.sm_limit = 50;
  EXPECT_EQ(class_of(limited), "90, 64, 64, none, plain, low, full, few");
}

TEST(Classes, AWindowShortensTheKeys) {
  fa_attention_desc desc = desc_of({1, 20000, 20000, 8, 128});
  EXPECT_EQ(class_of(desc), "90, 128, 128, none, plain, tall, full, many");
  desc.mask_kind = FA_MASK_CAUSAL;
  EXPECT_EQ(class_of(desc), "90, 128, 128, right, plain, tall, full, many");
  desc.window_left = 500;
  EXPECT_EQ(class_of(desc), "90, 128, 128, interval, plain, tall, full, few");
}

TEST(Classes, OtherRequestsDoNotCountUnderBatchInvariance) {
  for (const Case& c : {Case{1, 1, 1, 1, 64}, Case{64, 1, 5000, 8, 64}, Case{3, 4000, 4000, 8, 64}}) {
    fa_attention_desc desc = desc_of(c);
    desc.flags = FA_FLAG_BATCH_INVARIANT;
    EXPECT_EQ(class_of(desc), "90, 64, 64, none, plain, tall, full, many");
  }
}

TEST(Forced, FieldsAreReadBehindTheName) {
  EXPECT_EQ(kernel_name_of("sm90_fwd:tile_k=80"), "sm90_fwd");
  EXPECT_EQ(kernel_name_of("sm90_fwd"), "sm90_fwd");
  EXPECT_EQ(forced_fields_of("sm90_fwd"), "");
  Problem problem;
  Sm90ForwardConfig config;
  const int d = config.d;
  problem.kernel = "sm90_fwd:tile_k=80,overlaps_tiles=0,stages=3";
  ASSERT_TRUE(apply_forced_sm90(problem, &config).ok());
  EXPECT_EQ(config.tile_k, 80);
  EXPECT_EQ(config.stages, 3);
  EXPECT_FALSE(config.overlaps_tiles);
  EXPECT_EQ(config.d, d);
  for (const char* wrong : {"sm90_fwd:d=64", "sm90_fwd:tile_k", "sm90_fwd:tile_k=", "sm90_fwd:tile_k=8x", "sm90_fwd:=8",
                            "sm90_fwd:tile_k=-16", "sm90_fwd:tile_k=99999999999", "sm90_fwd:tile_k=80,,stages=2"}) {
    problem.kernel = wrong;
    const Status status = apply_forced_sm90(problem, &config);
    EXPECT_EQ(status.code(), FA_STATUS_INVALID_ARGUMENT) << wrong;
    EXPECT_NE(status.message().find("may only stand name=number, separated by commas, of: groups, tile_k"), std::string::npos)
        << status.message();
  }
}

TEST(Forced, WhatMakesNoKernelIsRefused) {
  const auto refusal = [](auto&& change) {
    Sm90ForwardConfig config;
    config.consumer_registers = 224;
    config.producer_registers = 56;
    change(config);
    return check_schedule_sm90(config, h200().shared_bytes).message();
  };
  EXPECT_EQ(refusal([](Sm90ForwardConfig&) {}), "");
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) { c.groups = 4; }).find("groups is 4"), std::string::npos);
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) { c.tile_k = 24; }).find("tile_k is 24"), std::string::npos);
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) { c.stages = 1; }).find("stages is 1"), std::string::npos);
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) { c.consumer_registers = 225; }).find("multiples of 8"), std::string::npos);
  // 128 registers are there for each of 512 threads: 3 groups of 160 and one of 40 would wait for each other for ever.
  EXPECT_EQ(
      refusal([](Sm90ForwardConfig& c) { c.groups = 3, c.tile_k = 64, c.consumer_registers = 160, c.producer_registers = 32; }),
      "");
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) {
              c.groups = 3, c.tile_k = 64, c.consumer_registers = 160, c.producer_registers = 40;
            }).find("need more than the 512"),
            std::string::npos);
  EXPECT_EQ(refusal([](Sm90ForwardConfig& c) { c.q_buffers = 1, c.o_passes = 2; }), "");
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) { c.q_buffers = 3; }).find("q_buffers is 3"), std::string::npos);
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) { c.q_buffers = 1, c.shares_q_buffer = true; }).find("takes q_buffers 2"),
            std::string::npos);
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) { c.o_passes = 3; }).find("o_passes is 3"), std::string::npos);
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) { c.o_passes = 2, c.shares_q_buffer = true; }).find("1 with shares_q_buffer"),
            std::string::npos);
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) { c.polynomial_exp = 5; }).find("polynomial_exp is 5"), std::string::npos);
  EXPECT_NE(refusal([](Sm90ForwardConfig& c) { c.stages = 4; }).find("bytes of shared memory"), std::string::npos);
}

TEST(Table, EveryRowMakesAKernelAndNoneIsThereTwice) {
  const std::vector<Sm90TunedRow> rows = tuned_rows_sm90();
  for (size_t n = 0; n < rows.size(); ++n) {
    const ProblemClass& c = rows[n].problem_class;
    Sm90ForwardConfig config;
    config.d = c.d;
    config.d_v = c.d_v;
    apply_tuned_sm90(c, &config);
    const Status status = check_schedule_sm90(config, h200().shared_bytes);
    EXPECT_TRUE(status.ok()) << class_text(c) << ": " << status.message();
    for (size_t other = 0; other < n; ++other) EXPECT_FALSE(rows[other].problem_class == c) << class_text(c);
    Problem problem;
    problem.kernel = forced_kernel_sm90(rows[n].schedule);
    Sm90ForwardConfig forced;
    EXPECT_TRUE(apply_forced_sm90(problem, &forced).ok());
    EXPECT_EQ(forced.tile_k, config.tile_k);
  }
}

}  // namespace
}  // namespace flash_attn::test
