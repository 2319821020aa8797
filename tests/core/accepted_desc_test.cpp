// What validation lets through, and the Problem it makes of it: defaults resolved, layouts told apart, broadcasting turned into
// strides of 0, and valid descriptions that no room of this build serves.
#include "tests/core/valid_desc.h"

#include "core/problem.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace flash_attn::test {
namespace {

Problem problem_of(const fa_attention_desc& desc) {
  Problem problem;
  const Status status = make_problem(desc, &problem);
  EXPECT_TRUE(status.ok()) << status.message();
  return problem;
}

TEST(AcceptedDesc, DenseDimsAndDefaults) {
  const Problem problem = problem_of(dense_desc());
  EXPECT_EQ(problem.b, 2);
  EXPECT_EQ(problem.max_s_q, 3);
  EXPECT_EQ(problem.max_s_k, 5);
  EXPECT_EQ(problem.total_q, 6);
  EXPECT_EQ(problem.h_q, 4);
  EXPECT_EQ(problem.h_k, 2);
  EXPECT_EQ(problem.group, 2);
  EXPECT_EQ(problem.d, 8);
  EXPECT_EQ(problem.d_v, 6);
  EXPECT_EQ(problem.k_rows, 5);
  EXPECT_EQ(problem.k_batch, 2);
  EXPECT_FLOAT_EQ(problem.scale, 1 / std::sqrt(8.0f));
  EXPECT_EQ(problem.window_left, -1);
  EXPECT_EQ(problem.q.batch, 96);
  EXPECT_EQ(problem.q.row, 32);
  EXPECT_EQ(problem.q.head, 8);
  EXPECT_EQ(problem.lse.batch, 12);
  EXPECT_EQ(problem.lse.head, 3);
  EXPECT_EQ(problem.lse.row, 1);
  EXPECT_EQ(problem.q_alignment, 4);
}

TEST(AcceptedDesc, PackedDims) {
  fa_attention_desc desc = packed_desc();
  const Problem derived = problem_of(desc);
  EXPECT_TRUE(derived.packed_q && derived.packed_k);
  EXPECT_EQ(derived.total_q, 7);
  EXPECT_EQ(derived.max_s_q, 7);
  EXPECT_EQ(derived.max_s_k, 9);
  EXPECT_EQ(derived.k_rows, 9);
  EXPECT_EQ(derived.k_batch, 1);
  EXPECT_EQ(derived.q.batch, 0);
  EXPECT_EQ(derived.lse.head, 7);
  desc.max_s_q = 4;
  desc.max_s_k = 5;
  const Problem declared = problem_of(desc);
  EXPECT_EQ(declared.max_s_q, 4);
  EXPECT_EQ(declared.max_s_k, 5);
}

TEST(AcceptedDesc, DeclaredLengthsAboveTheTensorsAreCut) {
  fa_attention_desc desc = packed_desc();
  desc.max_s_q = 100;
  desc.max_s_k = 200;
  desc.bias = compact(FA_DTYPE_F32, {1, 7, 200});
  const Problem problem = problem_of(desc);
  EXPECT_EQ(problem.max_s_q, 7);
  EXPECT_EQ(problem.max_s_k, 9);
  EXPECT_EQ(problem.bias.row, 200);
  EXPECT_EQ(problem.bias.key, 1);
}

TEST(AcceptedDesc, PagedDims) {
  fa_attention_desc desc = paged_desc();
  EXPECT_EQ(problem_of(desc).max_s_k, 12);
  desc.max_s_k = 10;
  desc.block_table.stride[0] = 7;
  const Problem problem = problem_of(desc);
  EXPECT_EQ(problem.max_s_k, 10);
  EXPECT_EQ(problem.page_size, 4);
  EXPECT_EQ(problem.num_pages, 11);
  EXPECT_EQ(problem.max_pages, 3);
  EXPECT_EQ(problem.block_table_stride, 7);
}

TEST(AcceptedDesc, TableCapacityDoesNotWrap) {
  fa_attention_desc desc = paged_desc();
  desc.block_table.shape[1] = (int64_t{1} << 31) - 1;
  desc.block_table.stride[0] = 0;
  desc.k.shape[0] = desc.v.shape[0] = 1;
  desc.k.shape[1] = desc.v.shape[1] = (int64_t{1} << 31) - 1;
  EXPECT_EQ(problem_of(desc).max_s_k, int64_t{1} << 40);
}

TEST(AcceptedDesc, PointersIgnoreTheFirstStride) {
  fa_attention_desc desc = dense_desc();
  desc.kv_layout = FA_KV_POINTERS;
  desc.k.stride[0] = desc.v.stride[0] = -17;
  const Problem problem = problem_of(desc);
  EXPECT_EQ(problem.k.batch, 0);
  EXPECT_EQ(problem.v.batch, 0);
  EXPECT_EQ(problem.k_rows, 5);
}

TEST(AcceptedDesc, EmptyLengthsAndNoRequests) {
  fa_attention_desc desc = dense_desc();
  desc.q.shape[1] = desc.o.shape[1] = desc.lse.shape[2] = 0;
  EXPECT_EQ(problem_of(desc).total_q, 0);
  desc = dense_desc();
  desc.k.shape[1] = desc.v.shape[1] = 0;
  EXPECT_EQ(problem_of(desc).max_s_k, 0);
  desc = dense_desc();
  desc.q.shape[0] = desc.k.shape[0] = desc.v.shape[0] = desc.o.shape[0] = desc.lse.shape[0] = 0;
  EXPECT_EQ(problem_of(desc).b, 0);
}

TEST(AcceptedDesc, StridesOfSingleIndicesAreFree) {
  fa_attention_desc desc = dense_desc();
  desc.q = compact(FA_DTYPE_F32, {2, 1, 4, 8});
  desc.o = compact(FA_DTYPE_F32, {2, 1, 4, 6});
  desc.lse = compact(FA_DTYPE_F32, {2, 4, 1});
  desc.q.stride[1] = 3;
  desc.o.stride[1] = 0;
  desc.lse.stride[2] = 9;
  problem_of(desc);
}

TEST(AcceptedDesc, CacheRowsMayDifferFromRequests) {
  fa_attention_desc desc = dense_desc();
  desc.inputs = FA_INPUT_CACHE_BATCH_IDX;
  desc.k = compact(FA_DTYPE_F32, {9, 5, 2, 8});
  desc.v = compact(FA_DTYPE_F32, {9, 5, 2, 6});
  EXPECT_EQ(problem_of(desc).k_batch, 9);
}

TEST(AcceptedDesc, BroadcastBecomesStrideZero) {
  fa_attention_desc desc = dense_desc();
  desc.bias = compact(FA_DTYPE_F32, {1, 4, 1, 5});
  desc.mask = compact(FA_DTYPE_BOOL, {2, 1, 3, 1});
  const Problem problem = problem_of(desc);
  EXPECT_EQ(problem.bias.batch, 0);
  EXPECT_EQ(problem.bias.head, 5);
  EXPECT_EQ(problem.bias.row, 0);
  EXPECT_EQ(problem.bias.key, 1);
  EXPECT_EQ(problem.mask.batch, 3);
  EXPECT_EQ(problem.mask.head, 0);
  EXPECT_EQ(problem.mask.row, 1);
  EXPECT_EQ(problem.mask.key, 0);
}

TEST(AcceptedDesc, OutputInASlotOfAPackedBuffer) {
  fa_attention_desc desc = dense_desc();
  desc.v.shape[3] = desc.o.shape[3] = 8;
  desc.v.stride[2] = 8;
  desc.v.stride[1] = 16;
  desc.v.stride[0] = 80;
  for (fa_tensor_desc* tensor : {&desc.q, &desc.o}) {  // [b, s, slots, h, d]
    tensor->stride[0] = 3 * 4 * 32;
    tensor->stride[1] = 4 * 32;
    tensor->stride[2] = 8;
  }
  problem_of(desc);
}

TEST(AcceptedDesc, HugeWindowsStayFarFromOverflow) {
  fa_attention_desc desc = dense_desc();
  desc.window_left = desc.window_right = desc.first_keys = desc.chunk = INT64_MAX;
  const Problem problem = problem_of(desc);
  EXPECT_EQ(problem.window_left, kUnbounded);
  EXPECT_EQ(problem.chunk, kUnbounded);
}

TEST(AcceptedDesc, PerRequestMasksWithAndWithoutTrees) {
  fa_attention_desc desc = dense_desc();
  desc.mask_kind = FA_MASK_PER_REQUEST;
  EXPECT_FALSE(problem_of(desc).has_tree_mask);
  desc.tree_mask = compact(FA_DTYPE_U64, {2, 3, 2});
  const Problem problem = problem_of(desc);
  EXPECT_EQ(problem.tree_words, 2);
  EXPECT_EQ(problem.tree_batch_stride, 6);
  EXPECT_EQ(problem.tree_row_stride, 2);
}

TEST(AcceptedDesc, NamesAreCopiedAndEmptyOnesAreAbsent) {
  fa_attention_desc desc = dense_desc();
  std::string kernel = "cpu/panel";
  desc.kernel = kernel.c_str();
  desc.isa = "";
  const Problem problem = problem_of(desc);
  kernel[0] = 'x';
  EXPECT_EQ(problem.kernel, "cpu/panel");
  EXPECT_EQ(problem.isa, "");
}

TEST(AcceptedDesc, F8WithDescalesIsValid) {
  fa_attention_desc desc = dense_desc();
  desc.q.dtype = desc.k.dtype = desc.v.dtype = FA_DTYPE_F8E4M3;
  desc.q_descale = compact(FA_DTYPE_F32, {2, 2});
  desc.q_descale.stride[0] = 0;
  EXPECT_TRUE(problem_of(desc).has_descale);
}

TEST(AcceptedDesc, AppendRotaryBackwardAndScoreModAreValid) {
  const Problem append = problem_of(append_desc());
  EXPECT_TRUE(append.has_append && append.has_rotary);
  EXPECT_EQ(problem_of(backward_desc()).direction, Direction::backward);
  fa_attention_desc desc = dense_desc();
  desc.score_mod = "return score;";
  EXPECT_TRUE(problem_of(desc).has_score_mod);
}

TEST(AcceptedDesc, BackwardTensorsBecomeStridesOfTheirOwn) {
  fa_attention_desc desc = backward_desc();
  desc.flags = FA_FLAG_ACCUMULATE_DK | FA_FLAG_DETERMINISTIC;
  desc.dout.stride[1] = 100;
  desc.dout.stride[0] = 1000;
  desc.dv.alignment = 64;
  desc.dlse = compact(FA_DTYPE_F32, {2, 4, 3});
  desc.alibi = desc.dslopes = compact(FA_DTYPE_F32, {2, 4});
  desc.bias = desc.dbias = compact(FA_DTYPE_F32, {2, 1, 3, 5});
  desc.sink = desc.dsink = compact(FA_DTYPE_F32, {4});
  const Problem problem = problem_of(desc);
  EXPECT_TRUE(problem.dout.batch == 1000 && problem.dout.row == 100 && problem.dout.head == 6);
  EXPECT_TRUE(problem.dq.batch == 96 && problem.dq.row == 32 && problem.dq.head == 8);
  EXPECT_TRUE(problem.dk.batch == 80 && problem.dk.row == 16 && problem.dk.head == 8);
  EXPECT_TRUE(problem.dv.batch == 60 && problem.dv.row == 12 && problem.dv.head == 6);
  EXPECT_TRUE(problem.dlse.batch == 12 && problem.dlse.row == 1 && problem.dlse.head == 3);
  EXPECT_EQ(problem.dv_alignment, 64);
  EXPECT_EQ(problem.dout_alignment, 4);
  EXPECT_TRUE(!problem.accumulates_dq && problem.accumulates_dk && !problem.accumulates_dv);
  EXPECT_TRUE(problem.has_flag(FA_FLAG_DETERMINISTIC));
  EXPECT_TRUE(problem.has_dlse && problem.has_dbias && problem.has_dsink && problem.has_dslopes);
  EXPECT_TRUE(problem.dbias_batches == 2 && problem.dbias_heads == 1 && problem.dbias_rows == 3 && problem.dbias_columns == 5);
  EXPECT_TRUE(problem.dbias.batch == 15 && problem.dbias.head == 0 && problem.dbias.row == 5 && problem.dbias.key == 1);
  EXPECT_TRUE(problem.dslopes_rows == 2 && problem.dslopes_batch_stride == 4);
  const std::string text = describe(problem);
  EXPECT_NE(text.find("deterministic, dlse, dbias, dsink, dslopes, adds to dk"), std::string::npos) << text;
}

TEST(AcceptedDesc, GradientsMayBeF32) {
  fa_attention_desc desc = backward_desc();
  desc.q.dtype = desc.k.dtype = desc.v.dtype = FA_DTYPE_BF16;
  desc.dk.dtype = FA_DTYPE_BF16;
  const Problem problem = problem_of(desc);
  EXPECT_TRUE(problem.dq_dtype == DType::f32 && problem.dk_dtype == DType::bf16 && problem.dv_dtype == DType::f32);
}

TEST(AcceptedDesc, PackedBackward) {
  fa_attention_desc desc = packed_desc();
  desc.direction = FA_BACKWARD;
  desc.dout = desc.o;
  desc.dq = desc.q;
  desc.dk = desc.k;
  desc.dv = desc.v;
  desc.dlse = desc.lse;
  desc.max_s_k = 6;
  desc.bias = desc.dbias = compact(FA_DTYPE_F32, {1, 7, 6});
  desc.alibi = desc.dslopes = compact(FA_DTYPE_F32, {4});
  const Problem problem = problem_of(desc);
  EXPECT_TRUE(problem.dq.batch == 0 && problem.dq.row == 32 && problem.dq.head == 8);
  EXPECT_TRUE(problem.dlse.batch == 0 && problem.dlse.row == 1 && problem.dlse.head == 7);
  EXPECT_TRUE(problem.dbias_batches == 1 && problem.dbias_heads == 1 && problem.dbias_rows == 7 && problem.dbias_columns == 6);
  EXPECT_TRUE(problem.dbias.batch == 0 && problem.dbias.head == 0 && problem.dbias.row == 6 && problem.dbias.key == 1);
  EXPECT_TRUE(problem.dslopes_rows == 1 && problem.dslopes_batch_stride == 0);
}

TEST(AcceptedDesc, DescribeNamesDimsAndFeatures) {
  fa_attention_desc desc = paged_desc();
  desc.mask_kind = FA_MASK_CAUSAL;
  desc.window_left = 5;
  desc.softcap = 30;
  desc.sink = compact(FA_DTYPE_F32, {4});
  const std::string text = describe(problem_of(desc));
  for (const char* part : {"forward on cpu", "f32 to f32", "b 2, s_q 3, s_k 12, h_q 4, h_k 2, d 8, d_v 6",
                           "dense q, paged k (11 pages of 4)", "causal, window (5, -1)", "softcap 30", "sink", "lse"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
  }
}

}  // namespace
}  // namespace flash_attn::test
