// Every class of contradiction that the validation of a description knows: a valid description is spoilt in one place, and the
// message must name the argument, its value and what is accepted.
#include "tests/core/valid_desc.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <ostream>
#include <string>

namespace flash_attn::test {
namespace {

using Desc = fa_attention_desc;

struct Case {
  const char* name;
  Desc (*valid)();
  void (*spoil)(Desc* desc);
  const char* message;  // a part of it
};

void PrintTo(const Case& test, std::ostream* stream) { *stream << test.name; }

class RefusedDesc : public testing::TestWithParam<Case> {};

TEST_P(RefusedDesc, NamesArgumentValueAndWhatIsAccepted) {
  Desc desc = GetParam().valid();
  ASSERT_EQ(fa_validate(&desc), FA_STATUS_OK) << fa_last_error();
  GetParam().spoil(&desc);
  EXPECT_EQ(fa_validate(&desc), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(std::string(fa_last_error()).find(GetParam().message), std::string::npos)
      << "message:  " << fa_last_error() << "\nexpected: " << GetParam().message;
  fa_plan* plan = reinterpret_cast<fa_plan*>(&desc);
  EXPECT_EQ(fa_plan_create(&desc, &plan), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(plan, nullptr);
}

std::string name_of(const testing::TestParamInfo<Case>& info) { return info.param.name; }

// clang-format off
const Case kOptions[] = {
    {"direction", dense_desc, [](Desc* d) { d->direction = 2; }, "direction is 2 but must be FA_FORWARD (0) or FA_BACKWARD (1)"},
    {"device_type", dense_desc, [](Desc* d) { d->device_type = 7; }, "device_type is 7 but must be FA_DEVICE_CPU (0)"},
    {"device_index_low", dense_desc, [](Desc* d) { d->device_index = -2; }, "device_index is -2 but must be -1 or 0 on a CPU"},
    {"device_index_cpu", dense_desc, [](Desc* d) { d->device_index = 1; }, "device_index is 1 but must be -1 or 0 on a CPU"},
    {"kv_layout", dense_desc, [](Desc* d) { d->kv_layout = 3; }, "kv_layout is 3 but must be FA_KV_CONTIGUOUS (0)"},
    {"mask_kind", dense_desc, [](Desc* d) { d->mask_kind = -1; }, "mask_kind is -1 but must be FA_MASK_FULL (0)"},
    {"diagonal", dense_desc, [](Desc* d) { d->diagonal = 4; }, "diagonal is 4 but must be FA_DIAGONAL_BOTTOM_RIGHT (0)"},
    {"flags", dense_desc, [](Desc* d) { d->flags = 1u << 8; }, "flags is 0x100 with unknown bits 0x100"},
    {"flags_accumulate", dense_desc, [](Desc* d) { d->flags = FA_FLAG_ACCUMULATE_DK; }, "FA_FLAG_ACCUMULATE_* but direction is FA_FORWARD"},
    {"inputs", dense_desc, [](Desc* d) { d->inputs = 1u << 9; }, "inputs is 0x200 with unknown bits 0x200"},
    {"reserved", dense_desc, [](Desc* d) { d->reserved = 5; }, "reserved is 5 but must be 0"},
    {"num_threads", dense_desc, [](Desc* d) { d->num_threads = -1; }, "num_threads is -1 but must be 0 or more"},
    {"sm_limit", dense_desc, [](Desc* d) { d->sm_limit = -3; }, "sm_limit is -3 but must be 0 or more"},
    {"num_splits_low", dense_desc, [](Desc* d) { d->num_splits = -1; }, "num_splits is -1 but must be 0 to 4096"},
    {"num_splits_high", dense_desc, [](Desc* d) { d->num_splits = 4097; }, "num_splits is 4097 but must be 0 to 4096"},
    {"split_size", dense_desc, [](Desc* d) { d->split_size = -64; }, "split_size is -64 but must be 0 or more"},
    {"splits_twice", dense_desc, [](Desc* d) { d->num_splits = 2; d->split_size = 64; }, "num_splits is 2 and split_size is 64 but only one"},
    {"window_left", dense_desc, [](Desc* d) { d->window_left = -7; }, "window_left is -7 but must be -1 or more"},
    {"window_right", dense_desc, [](Desc* d) { d->window_right = -2; }, "window_right is -2 but must be -1 or more"},
    {"first_keys", dense_desc, [](Desc* d) { d->first_keys = -1; }, "first_keys is -1 but must be 0 or more"},
    {"chunk", dense_desc, [](Desc* d) { d->chunk = -8; }, "chunk is -8 but must be 0 or more"},
    {"diagonal_offset_unused", dense_desc, [](Desc* d) { d->diagonal_offset = 3; }, "diagonal_offset is 3 but must be 0 unless diagonal is FA_DIAGONAL_OFFSET"},
    {"diagonal_offset_absurd", dense_desc, [](Desc* d) { d->diagonal = FA_DIAGONAL_OFFSET; d->diagonal_offset = INT64_MIN; }, "diagonal_offset is -9223372036854775808 but must be -2^40 to 2^40"},
    {"scale", dense_desc, [](Desc* d) { d->scale = INFINITY; }, "scale is inf but must be finite, or NaN for 1/sqrt(d)"},
    {"softcap_negative", dense_desc, [](Desc* d) { d->softcap = -1; }, "softcap is -1 but must be 0 (off) or a finite positive number"},
    {"softcap_infinite", dense_desc, [](Desc* d) { d->softcap = INFINITY; }, "softcap is inf but must be"},
    {"softcap_nan", dense_desc, [](Desc* d) { d->softcap = NAN; }, "softcap is nan but must be"},
    {"dropout_one", dense_desc, [](Desc* d) { d->dropout_p = 1; }, "dropout_p is 1 but must be 0 or more and below 1"},
    {"dropout_negative", dense_desc, [](Desc* d) { d->dropout_p = -0.5f; }, "dropout_p is -0.5 but must be 0 or more and below 1"},
    {"dropout_nan", dense_desc, [](Desc* d) { d->dropout_p = NAN; }, "dropout_p is nan but must be 0 or more and below 1"},
    {"kernel_long", dense_desc, [](Desc* d) { static const std::string text(300, 'k'); d->kernel = text.c_str(); }, "kernel is longer than 256 bytes"},
    {"isa_cuda", dense_desc, [](Desc* d) { d->device_type = FA_DEVICE_CUDA; d->isa = "avx2"; }, "isa is \"avx2\" but device_type is not FA_DEVICE_CPU"},
};

const Case kForms[] = {
    {"dtype", dense_desc, [](Desc* d) { d->q.dtype = 99; }, "q.dtype is 99 but must be one of FA_DTYPE_NONE (0) to FA_DTYPE_BOOL (8)"},
    {"rank_zero", dense_desc, [](Desc* d) { d->k.rank = 0; }, "k.rank is 0 but must be 1 to 4"},
    {"rank_high", dense_desc, [](Desc* d) { d->v.rank = 5; }, "v.rank is 5 but must be 1 to 4"},
    {"shape_negative", dense_desc, [](Desc* d) { d->k.shape[1] = -5; }, "k.shape[1] is -5 but must be 0 to 2^40"},
    {"shape_absurd", dense_desc, [](Desc* d) { d->k.shape[1] = INT64_MAX; }, "k.shape[1] is 9223372036854775807 but must be 0 to 2^40"},
    {"stride_negative", dense_desc, [](Desc* d) { d->q.stride[0] = -1; }, "q.stride[0] is -1 but must be 0 to 2^57"},
    {"stride_absurd", dense_desc, [](Desc* d) { d->q.stride[0] = INT64_MAX; }, "q.stride[0] is 9223372036854775807 but must be 0 to 2^57"},
    {"stride_last", dense_desc, [](Desc* d) { d->v.stride[3] = 2; }, "v.stride[3] is 2 but must be 1: the last dimension is contiguous"},
    {"span", dense_desc, [](Desc* d) { d->k.shape[1] = int64_t{1} << 39; d->k.stride[1] = int64_t{1} << 30; }, "k reaches 2^60 bytes or more at shape[1] 549755813888 with stride[1] 1073741824"},
    {"span_wraps", dense_desc, [](Desc* d) { d->k.shape[1] = int64_t{1} << 40; d->k.stride[1] = int64_t{1} << 57; }, "k reaches 2^60 bytes or more at shape[1]"},
    {"alignment_odd", dense_desc, [](Desc* d) { d->q.alignment = 24; }, "q.alignment is 24 but must be 0 or a power of two from the element size, 4, to 2^30"},
    {"alignment_small", dense_desc, [](Desc* d) { d->o.alignment = 2; }, "o.alignment is 2 but must be 0 or a power of two from the element size, 4"},
    {"alignment_negative", dense_desc, [](Desc* d) { d->o.alignment = INT64_MIN; }, "o.alignment is -9223372036854775808 but must be 0 or a power of two"},
};

const Case kShapes[] = {
    {"q_absent", dense_desc, [](Desc* d) { d->q.dtype = FA_DTYPE_NONE; }, "q is absent (its dtype is FA_DTYPE_NONE) but every problem needs it"},
    {"o_absent", dense_desc, [](Desc* d) { d->o.dtype = FA_DTYPE_NONE; }, "o is absent"},
    {"q_dtype", dense_desc, [](Desc* d) { d->q.dtype = FA_DTYPE_I32; }, "q has dtype i32 but must be f32, f16, bf16, f8e4m3 or f8e5m2"},
    {"k_dtype", dense_desc, [](Desc* d) { d->k.dtype = FA_DTYPE_F16; }, "k has dtype f16 but must be that of q"},
    {"v_dtype", dense_desc, [](Desc* d) { d->v.dtype = FA_DTYPE_BF16; }, "v has dtype bf16 but must be that of q"},
    {"o_dtype", dense_desc, [](Desc* d) { d->o.dtype = FA_DTYPE_F8E4M3; }, "o has dtype f8e4m3 but must be f32, f16 or bf16"},
    {"q_rank", dense_desc, [](Desc* d) { d->q = compact(FA_DTYPE_F32, {4, 8}); }, "q.rank is 2 but must be 4, [b, s_q, h_q, d], or 3, [total_q, h_q, d]"},
    {"k_rank", dense_desc, [](Desc* d) { d->k = compact(FA_DTYPE_F32, {4, 8}); }, "k.rank is 2 but must be 4"},
    {"v_rank", dense_desc, [](Desc* d) { d->v = compact(FA_DTYPE_F32, {10, 2, 6}); }, "v.rank is 3 but must be 4, that of k"},
    {"h_q_zero", dense_desc, [](Desc* d) { d->q.shape[2] = 0; }, "q.shape[2] is 0 but must be 1 to 2147483647: query heads"},
    {"h_k_zero", dense_desc, [](Desc* d) { d->k.shape[2] = 0; }, "k.shape[2] is 0 but must be 1 to 2147483647: key heads"},
    {"d_zero", dense_desc, [](Desc* d) { d->q.shape[3] = 0; }, "q.shape[3] is 0 but must be 1 to 2147483647: head dim"},
    {"d_v_zero", dense_desc, [](Desc* d) { d->v.shape[3] = 0; }, "v.shape[3] is 0 but must be 1 to 2147483647: head dim of v"},
    {"heads", dense_desc, [](Desc* d) { d->k.shape[2] = d->v.shape[2] = 3; }, "k has 3 heads; q's 4 are no multiple"},
    {"d", dense_desc, [](Desc* d) { d->k.shape[3] = 7; }, "k.shape[3] is 7 but must be 8, the head dim of q"},
    {"v_rows", dense_desc, [](Desc* d) { d->v.shape[1] = 6; }, "v.shape[1] is 6 but must be 5, as k's"},
    {"k_batch", dense_desc, [](Desc* d) { d->k.shape[0] = d->v.shape[0] = 3; }, "k.shape[0] is 3 but must be 2, the number of requests (or FA_INPUT_CACHE_BATCH_IDX be given)"},
    {"batch", dense_desc, [](Desc* d) { d->batch = 3; }, "batch is 3 but q.shape[0] is 2; they must agree, or batch be 0"},
    {"batch_negative", dense_desc, [](Desc* d) { d->batch = -1; }, "batch is -1 but must be 0 to 2147483647"},
    {"batch_absurd", packed_desc, [](Desc* d) { d->batch = int64_t{1} << 31; }, "batch is 2147483648 but must be 0 to 2147483647"},
    {"batch_unknown", packed_desc, [](Desc* d) { d->batch = 0; }, "batch is 0 but a packed q of 7 rows needs the number of requests"},
    {"max_s_q", dense_desc, [](Desc* d) { d->max_s_q = 4; }, "max_s_q is 4 but q.shape[1] is 3; they must agree, or max_s_q be 0"},
    {"max_s_q_negative", packed_desc, [](Desc* d) { d->max_s_q = -4; }, "max_s_q is -4 but must be 0 or more"},
    {"max_s_k", dense_desc, [](Desc* d) { d->max_s_k = 4; }, "max_s_k is 4 but k.shape[1] is 5; they must agree, or max_s_k be 0"},
    {"max_s_k_negative", packed_desc, [](Desc* d) { d->max_s_k = -4; }, "max_s_k is -4 but must be 0 or more"},
    {"o_heads", dense_desc, [](Desc* d) { d->o.shape[2] = 3; }, "o.shape[2] is 3 but must be 4: [b, s_q, h_q, d_v]"},
    {"o_rank", dense_desc, [](Desc* d) { d->o.rank = 3; d->o.stride[2] = 1; }, "o.rank is 3 but must be 4: [b, s_q, h_q, d_v]"},
    {"o_packed", packed_desc, [](Desc* d) { d->o.shape[0] = 6; }, "o.shape[0] is 6 but must be 7: [total_q, h_q, d_v]"},
    {"o_broadcast", dense_desc, [](Desc* d) { d->o.stride[1] = 0; }, "o.stride[1] is 0 but an output cannot be broadcast"},
    {"o_overlap", dense_desc, [](Desc* d) { d->o.stride[2] = 5; }, "o has strides [72, 24, 5, 1], by which elements of this output share memory"},
    {"lse_dtype", dense_desc, [](Desc* d) { d->lse.dtype = FA_DTYPE_F16; }, "lse has dtype f16 but must be f32"},
    {"lse_shape", dense_desc, [](Desc* d) { d->lse.shape[1] = 3; }, "lse.shape[1] is 3 but must be 4: [b, h_q, s_q]"},
    {"lse_packed", packed_desc, [](Desc* d) { d->lse.shape[1] = 8; }, "lse.shape[1] is 8 but must be 7: [h_q, total_q]"},
    {"lse_overlap", dense_desc, [](Desc* d) { d->lse.stride[1] = 2; }, "lse has strides [12, 2, 1], by which elements of this output share memory"},
};

const Case kLayouts[] = {
    {"packed_q_bit", packed_desc, [](Desc* d) { d->inputs = FA_INPUT_CU_SEQLENS_K; }, "q has rank 3 (packed) but inputs lacks FA_INPUT_CU_SEQLENS_Q"},
    {"packed_k_bit", packed_desc, [](Desc* d) { d->inputs = FA_INPUT_CU_SEQLENS_Q; }, "k has rank 3 (packed) but inputs lacks FA_INPUT_CU_SEQLENS_K"},
    {"dense_q_bit", dense_desc, [](Desc* d) { d->inputs = FA_INPUT_CU_SEQLENS_Q; }, "inputs has FA_INPUT_CU_SEQLENS_Q but q has rank 4"},
    {"dense_k_bit", dense_desc, [](Desc* d) { d->inputs = FA_INPUT_CU_SEQLENS_K; }, "inputs has FA_INPUT_CU_SEQLENS_K but k has rank 4"},
    {"paged_k_bit", paged_desc, [](Desc* d) { d->inputs = FA_INPUT_CU_SEQLENS_K; }, "inputs has FA_INPUT_CU_SEQLENS_K but k has rank 4"},
    {"paged_packed", packed_desc, [](Desc* d) { d->kv_layout = FA_KV_PAGED; }, "k.rank is 3 (packed) but kv_layout is FA_KV_PAGED, which needs rank 4"},
    {"pointers_packed", packed_desc, [](Desc* d) { d->kv_layout = FA_KV_POINTERS; }, "k.rank is 3 (packed) but kv_layout is FA_KV_POINTERS, which needs rank 4"},
    {"pointers_batch", dense_desc, [](Desc* d) { d->kv_layout = FA_KV_POINTERS; d->k.shape[0] = d->v.shape[0] = 1; }, "k.shape[0] is 1 but must be 2, the number of requests"},
    {"table_absent", paged_desc, [](Desc* d) { d->block_table.dtype = FA_DTYPE_NONE; }, "block_table is absent but kv_layout is FA_KV_PAGED"},
    {"table_extra", dense_desc, [](Desc* d) { d->block_table = compact(FA_DTYPE_I32, {2, 3}); }, "block_table is described but kv_layout is not FA_KV_PAGED"},
    {"table_dtype", paged_desc, [](Desc* d) { d->block_table.dtype = FA_DTYPE_F32; }, "block_table has dtype f32 but must be i32"},
    {"table_rows", paged_desc, [](Desc* d) { d->block_table.shape[0] = 3; }, "block_table.shape[0] is 3 but must be 2: [b, max_pages]"},
    {"table_absurd", paged_desc, [](Desc* d) { d->block_table.shape[1] = int64_t{1} << 31; }, "block_table.shape[1] is 2147483648 but must be 0 to 2147483647: pages of a request"},
    {"page_size", paged_desc, [](Desc* d) { d->k.shape[1] = d->v.shape[1] = 0; }, "k.shape[1] is 0 but must be 1 to 2147483647: rows of a page"},
    {"index_paged", paged_desc, [](Desc* d) { d->inputs = FA_INPUT_CACHE_BATCH_IDX; }, "inputs has FA_INPUT_CACHE_BATCH_IDX but k is paged"},
    {"index_packed", packed_desc, [](Desc* d) { d->inputs |= FA_INPUT_CACHE_BATCH_IDX; }, "inputs has FA_INPUT_CACHE_BATCH_IDX but k is packed"},
    {"index_pointers", dense_desc, [](Desc* d) { d->kv_layout = FA_KV_POINTERS; d->inputs = FA_INPUT_CACHE_BATCH_IDX; }, "inputs has FA_INPUT_CACHE_BATCH_IDX but k is given by pointers"},
};

const Case kFeatures[] = {
    {"alibi_dtype", dense_desc, [](Desc* d) { d->alibi = compact(FA_DTYPE_F16, {4}); }, "alibi has dtype f16 but must be f32"},
    {"alibi_shape", dense_desc, [](Desc* d) { d->alibi = compact(FA_DTYPE_F32, {2}); }, "alibi.shape[0] is 2 but must be 4: [h_q]"},
    {"alibi_batch", dense_desc, [](Desc* d) { d->alibi = compact(FA_DTYPE_F32, {3, 4}); }, "alibi.shape[0] is 3 but must be 2: [b, h_q]"},
    {"alibi_rank", dense_desc, [](Desc* d) { d->alibi = compact(FA_DTYPE_F32, {1, 2, 4}); }, "alibi.rank is 3 but must be 1, [h_q], or 2, [b, h_q]"},
    {"bias_dtype", dense_desc, [](Desc* d) { d->bias = compact(FA_DTYPE_BF16, {1, 1, 3, 5}); }, "bias has dtype bf16 but must be f32 or that of q"},
    {"bias_shape", dense_desc, [](Desc* d) { d->bias = compact(FA_DTYPE_F32, {1, 2, 3, 5}); }, "bias.shape[1] is 2 but must be 4 or 1: [b|1, h_q|1, s_q|1, s_k|1]"},
    {"bias_packed", packed_desc, [](Desc* d) { d->bias = compact(FA_DTYPE_F32, {4, 7, 8}); }, "bias.shape[2] is 8 but must be 9: [h_q|1, total_q|1, max_s_k]"},
    {"bias_rank", dense_desc, [](Desc* d) { d->bias = compact(FA_DTYPE_F32, {3, 5}); }, "bias.rank is 2 but must be 4: [b|1, h_q|1, s_q|1, s_k|1]"},
    {"mask_dtype", dense_desc, [](Desc* d) { d->mask = compact(FA_DTYPE_F32, {1, 1, 3, 5}); }, "mask has dtype f32 but must be bool"},
    {"mask_shape", dense_desc, [](Desc* d) { d->mask = compact(FA_DTYPE_BOOL, {1, 1, 3, 4}); }, "mask.shape[3] is 4 but must be 5 or 1"},
    {"tree_absent", dense_desc, [](Desc* d) { d->mask_kind = FA_MASK_TREE; }, "tree_mask is absent but mask_kind is FA_MASK_TREE"},
    {"tree_extra", dense_desc, [](Desc* d) { d->tree_mask = compact(FA_DTYPE_U64, {2, 3, 1}); }, "tree_mask is described but mask_kind is FA_MASK_FULL; it must be FA_MASK_TREE or FA_MASK_PER_REQUEST"},
    {"tree_causal", dense_desc, [](Desc* d) { d->mask_kind = FA_MASK_CAUSAL; d->tree_mask = compact(FA_DTYPE_U64, {2, 3, 1}); }, "tree_mask is described but mask_kind is FA_MASK_CAUSAL"},
    {"tree_dtype", dense_desc, [](Desc* d) { d->mask_kind = FA_MASK_TREE; d->tree_mask = compact(FA_DTYPE_I32, {2, 3, 1}); }, "tree_mask has dtype i32 but must be u64"},
    {"tree_shape", dense_desc, [](Desc* d) { d->mask_kind = FA_MASK_TREE; d->tree_mask = compact(FA_DTYPE_U64, {2, 4, 1}); }, "tree_mask.shape[1] is 4 but must be 3: [b, s_q, words]"},
    {"tree_packed", packed_desc, [](Desc* d) { d->mask_kind = FA_MASK_TREE; d->tree_mask = compact(FA_DTYPE_U64, {2, 4, 1}); }, "tree_mask.rank is 3 but must be 2: [total_q, words]"},
    {"tree_words", dense_desc, [](Desc* d) { d->mask_kind = FA_MASK_TREE; d->tree_mask = compact(FA_DTYPE_U64, {2, 3, 0}); }, "tree_mask.shape[2] is 0 but must be 1 to"},
    {"sink_dtype", dense_desc, [](Desc* d) { d->sink = compact(FA_DTYPE_BF16, {4}); }, "sink has dtype bf16 but must be f32"},
    {"sink_shape", dense_desc, [](Desc* d) { d->sink = compact(FA_DTYPE_F32, {2}); }, "sink.shape[0] is 2 but must be 4: [h_q]"},
    {"descale", dense_desc, [](Desc* d) { d->k_descale = compact(FA_DTYPE_F32, {2, 2}); }, "k_descale is described but q has dtype f32; descales belong to f8 inputs"},
};

const Case kUpdates[] = {
    {"v_new_absent", append_desc, [](Desc* d) { d->v_new.dtype = FA_DTYPE_NONE; }, "k_new is described but v_new is absent; they go together"},
    {"k_new_absent", append_desc, [](Desc* d) { d->k_new.dtype = FA_DTYPE_NONE; }, "v_new is described but k_new is absent; they go together"},
    {"new_offsets", append_desc, [](Desc* d) { d->inputs |= FA_INPUT_CU_SEQLENS_K_NEW; }, "inputs has FA_INPUT_CU_SEQLENS_K_NEW but k_new has rank 4"},
    {"new_offsets_alone", dense_desc, [](Desc* d) { d->inputs = FA_INPUT_CU_SEQLENS_K_NEW; }, "inputs has FA_INPUT_CU_SEQLENS_K_NEW but k_new is absent"},
    {"new_packed", append_desc, [](Desc* d) { d->k_new = compact(FA_DTYPE_F32, {6, 2, 8}); d->v_new = compact(FA_DTYPE_F32, {6, 2, 6}); }, "k_new has rank 3 (packed) but inputs lacks FA_INPUT_CU_SEQLENS_K_NEW"},
    {"new_dtype", append_desc, [](Desc* d) { d->k_new.dtype = FA_DTYPE_F16; }, "k_new has dtype f16 but must be that of k"},
    {"new_heads", append_desc, [](Desc* d) { d->k_new.shape[2] = 1; }, "k_new.shape[2] is 1 but must be 2: [b, s_new, h_k, d]"},
    {"new_rows", append_desc, [](Desc* d) { d->v_new.shape[1] = 4; }, "v_new.shape[1] is 4 but must be 3: [b, s_new, h_k, d_v]"},
    {"new_position", append_desc, [](Desc* d) { d->inputs = 0; }, "k_new is described but inputs lacks FA_INPUT_SEQUSED_K"},
    {"sin_absent", append_desc, [](Desc* d) { d->rotary_sin.dtype = FA_DTYPE_NONE; }, "rotary_cos is described but rotary_sin is absent; they go together"},
    {"cos_absent", append_desc, [](Desc* d) { d->rotary_cos.dtype = FA_DTYPE_NONE; }, "rotary_sin is described but rotary_cos is absent; they go together"},
    {"rotary_dim", append_desc, [](Desc* d) { d->rotary_cos.shape[1] = 5; }, "rotary_cos.shape[1] is 5 but must be 1 to 4, half of the head dim"},
    {"rotary_rank", append_desc, [](Desc* d) { d->rotary_cos = compact(FA_DTYPE_F32, {4}); }, "rotary_cos.rank is 1 but must be 2: [positions, rotary_dim/2]"},
    {"rotary_sin", append_desc, [](Desc* d) { d->rotary_sin.shape[0] = 19; }, "rotary_sin.shape[0] is 19 but must be 20: [positions, rotary_dim/2]"},
    {"rotary_dtype", append_desc, [](Desc* d) { d->rotary_sin.dtype = FA_DTYPE_F16; }, "rotary_sin has dtype f16 but must be that of q"},
    {"rotary_alone", append_desc, [](Desc* d) { d->k_new.dtype = d->v_new.dtype = FA_DTYPE_NONE; }, "rotary_cos is described but k_new is absent"},
    {"rotary_lengths", dense_desc, [](Desc* d) { d->inputs = FA_INPUT_SEQLENS_ROTARY; }, "inputs has FA_INPUT_SEQLENS_ROTARY but rotary_cos is absent"},
};

const Case kGradients[] = {
    {"forward_dq", dense_desc, [](Desc* d) { d->dq = d->q; }, "dq is described but direction is FA_FORWARD"},
    {"forward_dsink", dense_desc, [](Desc* d) { d->dsink = compact(FA_DTYPE_F32, {4}); }, "dsink is described but direction is FA_FORWARD"},
    {"append", backward_desc, [](Desc* d) { d->k_new = d->k; }, "k_new is described but direction is FA_BACKWARD"},
    {"lse_absent", backward_desc, [](Desc* d) { d->lse.dtype = FA_DTYPE_NONE; }, "lse is absent (its dtype is FA_DTYPE_NONE) but FA_BACKWARD needs it"},
    {"dout_absent", backward_desc, [](Desc* d) { d->dout.dtype = FA_DTYPE_NONE; }, "dout is absent (its dtype is FA_DTYPE_NONE) but FA_BACKWARD needs it"},
    {"dv_absent", backward_desc, [](Desc* d) { d->dv.dtype = FA_DTYPE_NONE; }, "dv is absent (its dtype is FA_DTYPE_NONE) but FA_BACKWARD needs it"},
    {"dout_dtype", backward_desc, [](Desc* d) { d->dout.dtype = FA_DTYPE_F16; }, "dout has dtype f16 but must be that of o"},
    {"dout_shape", backward_desc, [](Desc* d) { d->dout.shape[1] = 2; }, "dout.shape[1] is 2 but must be 3, as o's"},
    {"dq_dtype", backward_desc, [](Desc* d) { d->dq.dtype = FA_DTYPE_BF16; }, "dq has dtype bf16 but must be that of q or f32"},
    {"dk_rank", backward_desc, [](Desc* d) { d->dk = compact(FA_DTYPE_F32, {10, 2, 8}); }, "dk.rank is 3 but must be 4, that of k"},
    {"dv_overlap", backward_desc, [](Desc* d) { d->dv.stride[0] = 0; }, "dv.stride[0] is 0 but an output cannot be broadcast"},
    {"dlse_dtype", backward_desc, [](Desc* d) { d->dlse = d->lse; d->dlse.dtype = FA_DTYPE_F16; }, "dlse has dtype f16 but must be f32"},
    {"dbias_alone", backward_desc, [](Desc* d) { d->dbias = compact(FA_DTYPE_F32, {1, 1, 3, 5}); }, "dbias is described but bias is absent"},
    {"dsink_alone", backward_desc, [](Desc* d) { d->dsink = compact(FA_DTYPE_F32, {4}); }, "dsink is described but sink is absent"},
    {"paged", backward_desc, [](Desc* d) { d->kv_layout = FA_KV_PAGED; d->block_table = compact(FA_DTYPE_I32, {2, 3}); }, "kv_layout is FA_KV_PAGED but FA_BACKWARD needs FA_KV_CONTIGUOUS"},
    {"pointers", backward_desc, [](Desc* d) { d->kv_layout = FA_KV_POINTERS; }, "kv_layout is FA_KV_POINTERS but FA_BACKWARD needs FA_KV_CONTIGUOUS"},
    {"cache_batch_idx", backward_desc, [](Desc* d) { d->inputs = FA_INPUT_CACHE_BATCH_IDX; }, "inputs has FA_INPUT_CACHE_BATCH_IDX but direction is FA_BACKWARD"},
    {"num_splits", backward_desc, [](Desc* d) { d->num_splits = 2; }, "num_splits is 2 but must be 0 in FA_BACKWARD"},
    {"split_size", backward_desc, [](Desc* d) { d->split_size = 64; }, "split_size is 64 but must be 0 in FA_BACKWARD"},
    {"dlse_shape", backward_desc, [](Desc* d) { d->dlse = compact(FA_DTYPE_F32, {2, 3, 4}); }, "dlse.shape[1] is 3 but must be 4, as lse's"},
    {"dbias_shape", backward_desc, [](Desc* d) { d->bias = compact(FA_DTYPE_F32, {1, 4, 3, 5}); d->dbias = compact(FA_DTYPE_F32, {2, 4, 3, 5}); }, "dbias.shape[0] is 2 but must be 1, as bias's"},
    {"dbias_dtype", backward_desc, [](Desc* d) { d->bias = compact(FA_DTYPE_F32, {1, 4, 3, 5}); d->dbias = d->bias; d->dbias.dtype = FA_DTYPE_F16; }, "dbias has dtype f16 but must be f32"},
    {"dbias_overlap", backward_desc, [](Desc* d) { d->bias = compact(FA_DTYPE_F32, {1, 4, 3, 5}); d->dbias = d->bias; d->dbias.stride[1] = 0; }, "dbias.stride[1] is 0 but an output cannot be broadcast"},
    {"dslopes_shape", backward_desc, [](Desc* d) { d->alibi = compact(FA_DTYPE_F32, {4}); d->dslopes = compact(FA_DTYPE_F32, {5}); }, "dslopes.shape[0] is 5 but must be 4, as alibi's"},
};
// clang-format on

INSTANTIATE_TEST_SUITE_P(Options, RefusedDesc, testing::ValuesIn(kOptions), name_of);
INSTANTIATE_TEST_SUITE_P(Forms, RefusedDesc, testing::ValuesIn(kForms), name_of);
INSTANTIATE_TEST_SUITE_P(Shapes, RefusedDesc, testing::ValuesIn(kShapes), name_of);
INSTANTIATE_TEST_SUITE_P(Layouts, RefusedDesc, testing::ValuesIn(kLayouts), name_of);
INSTANTIATE_TEST_SUITE_P(Features, RefusedDesc, testing::ValuesIn(kFeatures), name_of);
INSTANTIATE_TEST_SUITE_P(Updates, RefusedDesc, testing::ValuesIn(kUpdates), name_of);
INSTANTIATE_TEST_SUITE_P(Gradients, RefusedDesc, testing::ValuesIn(kGradients), name_of);

TEST(RefusedDesc, NullIsNamed) {
  EXPECT_EQ(fa_validate(nullptr), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_STREQ(fa_last_error(), "desc is NULL");
}

}  // namespace
}  // namespace flash_attn::test
