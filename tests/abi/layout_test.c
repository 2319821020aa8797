/* The layout of every struct of the ABI on LP64, written down: a change here is a change that callers compiled earlier feel. Fields
 * may only be added at a struct's end; fa_tensor_desc never changes. */
#include "flash_attn/flash_attn.h"

#include <stddef.h>
#include <stdio.h>

struct entry {
  const char* name;
  size_t actual;
  size_t written;
};

#define SIZE(type, written) \
  { "sizeof " #type, sizeof(type), written }
#define FIELD(type, field, written) \
  { #type "." #field, offsetof(type, field), written }

/* clang-format off */
static const struct entry entries[] = {
    SIZE(fa_tensor_desc, 80),
    FIELD(fa_tensor_desc, dtype, 0),
    FIELD(fa_tensor_desc, rank, 4),
    FIELD(fa_tensor_desc, shape, 8),
    FIELD(fa_tensor_desc, stride, 40),
    FIELD(fa_tensor_desc, alignment, 72),
    SIZE(fa_attention_desc, 2240),
    FIELD(fa_attention_desc, struct_size, 0),
    FIELD(fa_attention_desc, flags, 4),
    FIELD(fa_attention_desc, inputs, 8),
    FIELD(fa_attention_desc, direction, 12),
    FIELD(fa_attention_desc, device_type, 16),
    FIELD(fa_attention_desc, device_index, 20),
    FIELD(fa_attention_desc, kv_layout, 24),
    FIELD(fa_attention_desc, mask_kind, 28),
    FIELD(fa_attention_desc, diagonal, 32),
    FIELD(fa_attention_desc, num_threads, 36),
    FIELD(fa_attention_desc, sm_limit, 40),
    FIELD(fa_attention_desc, num_splits, 44),
    FIELD(fa_attention_desc, batch, 48),
    FIELD(fa_attention_desc, max_s_q, 56),
    FIELD(fa_attention_desc, max_s_k, 64),
    FIELD(fa_attention_desc, split_size, 72),
    FIELD(fa_attention_desc, diagonal_offset, 80),
    FIELD(fa_attention_desc, window_left, 88),
    FIELD(fa_attention_desc, window_right, 96),
    FIELD(fa_attention_desc, first_keys, 104),
    FIELD(fa_attention_desc, chunk, 112),
    FIELD(fa_attention_desc, scale, 120),
    FIELD(fa_attention_desc, softcap, 124),
    FIELD(fa_attention_desc, dropout_p, 128),
    FIELD(fa_attention_desc, reserved, 132),
    FIELD(fa_attention_desc, q, 136),
    FIELD(fa_attention_desc, k, 216),
    FIELD(fa_attention_desc, v, 296),
    FIELD(fa_attention_desc, o, 376),
    FIELD(fa_attention_desc, lse, 456),
    FIELD(fa_attention_desc, block_table, 536),
    FIELD(fa_attention_desc, alibi, 616),
    FIELD(fa_attention_desc, bias, 696),
    FIELD(fa_attention_desc, mask, 776),
    FIELD(fa_attention_desc, tree_mask, 856),
    FIELD(fa_attention_desc, sink, 936),
    FIELD(fa_attention_desc, k_new, 1016),
    FIELD(fa_attention_desc, v_new, 1096),
    FIELD(fa_attention_desc, rotary_cos, 1176),
    FIELD(fa_attention_desc, rotary_sin, 1256),
    FIELD(fa_attention_desc, q_descale, 1336),
    FIELD(fa_attention_desc, k_descale, 1416),
    FIELD(fa_attention_desc, v_descale, 1496),
    FIELD(fa_attention_desc, dout, 1576),
    FIELD(fa_attention_desc, dq, 1656),
    FIELD(fa_attention_desc, dk, 1736),
    FIELD(fa_attention_desc, dv, 1816),
    FIELD(fa_attention_desc, dlse, 1896),
    FIELD(fa_attention_desc, dbias, 1976),
    FIELD(fa_attention_desc, dsink, 2056),
    FIELD(fa_attention_desc, dslopes, 2136),
    FIELD(fa_attention_desc, kernel, 2216),
    FIELD(fa_attention_desc, isa, 2224),
    FIELD(fa_attention_desc, score_mod, 2232),
    SIZE(fa_attention_args, 368),
    FIELD(fa_attention_args, struct_size, 0),
    FIELD(fa_attention_args, reserved, 4),
    FIELD(fa_attention_args, q, 8),
    FIELD(fa_attention_args, k, 16),
    FIELD(fa_attention_args, v, 24),
    FIELD(fa_attention_args, o, 32),
    FIELD(fa_attention_args, lse, 40),
    FIELD(fa_attention_args, cu_seqlens_q, 48),
    FIELD(fa_attention_args, cu_seqlens_k, 56),
    FIELD(fa_attention_args, seqused_q, 64),
    FIELD(fa_attention_args, seqused_k, 72),
    FIELD(fa_attention_args, leftpad_k, 80),
    FIELD(fa_attention_args, cache_batch_idx, 88),
    FIELD(fa_attention_args, block_table, 96),
    FIELD(fa_attention_args, k_ptrs, 104),
    FIELD(fa_attention_args, v_ptrs, 112),
    FIELD(fa_attention_args, mask_kinds, 120),
    FIELD(fa_attention_args, diagonal_offsets, 128),
    FIELD(fa_attention_args, tree_sizes, 136),
    FIELD(fa_attention_args, alibi, 144),
    FIELD(fa_attention_args, bias, 152),
    FIELD(fa_attention_args, mask, 160),
    FIELD(fa_attention_args, tree_mask, 168),
    FIELD(fa_attention_args, sink, 176),
    FIELD(fa_attention_args, dropout_seed, 184),
    FIELD(fa_attention_args, dropout_offset, 192),
    FIELD(fa_attention_args, dropout_seed_ptr, 200),
    FIELD(fa_attention_args, dropout_offset_ptr, 208),
    FIELD(fa_attention_args, k_cache_out, 216),
    FIELD(fa_attention_args, v_cache_out, 224),
    FIELD(fa_attention_args, k_new, 232),
    FIELD(fa_attention_args, v_new, 240),
    FIELD(fa_attention_args, cu_seqlens_k_new, 248),
    FIELD(fa_attention_args, seqlens_rotary, 256),
    FIELD(fa_attention_args, rotary_cos, 264),
    FIELD(fa_attention_args, rotary_sin, 272),
    FIELD(fa_attention_args, q_descale, 280),
    FIELD(fa_attention_args, k_descale, 288),
    FIELD(fa_attention_args, v_descale, 296),
    FIELD(fa_attention_args, dout, 304),
    FIELD(fa_attention_args, dq, 312),
    FIELD(fa_attention_args, dk, 320),
    FIELD(fa_attention_args, dv, 328),
    FIELD(fa_attention_args, dlse, 336),
    FIELD(fa_attention_args, dbias, 344),
    FIELD(fa_attention_args, dsink, 352),
    FIELD(fa_attention_args, dslopes, 360),
    SIZE(fa_workspace, 40),
    FIELD(fa_workspace, struct_size, 0),
    FIELD(fa_workspace, reserved, 4),
    FIELD(fa_workspace, scratch, 8),
    FIELD(fa_workspace, scratch_bytes, 16),
    FIELD(fa_workspace, state, 24),
    FIELD(fa_workspace, state_bytes, 32),
    SIZE(fa_status, 4),
    SIZE(fa_dtype, 4),
    SIZE(fa_device_type, 4),
    SIZE(fa_direction, 4),
    SIZE(fa_kv_layout, 4),
    SIZE(fa_mask_kind, 4),
    SIZE(fa_diagonal, 4),
    SIZE(fa_log_level, 4),
};

struct constant {
  const char* name;
  long actual;
  long written;
};

#define VALUE(name, written) {#name, (long)(name), written}

static const struct constant constants[] = {
    VALUE(FA_STATUS_OK, 0),
    VALUE(FA_STATUS_INVALID_ARGUMENT, 1),
    VALUE(FA_STATUS_UNSUPPORTED, 2),
    VALUE(FA_STATUS_OUT_OF_MEMORY, 3),
    VALUE(FA_STATUS_DEVICE_ERROR, 4),
    VALUE(FA_STATUS_COMPILE_ERROR, 5),
    VALUE(FA_STATUS_INTERNAL, 6),
    VALUE(FA_DTYPE_NONE, 0),
    VALUE(FA_DTYPE_F32, 1),
    VALUE(FA_DTYPE_F16, 2),
    VALUE(FA_DTYPE_BF16, 3),
    VALUE(FA_DTYPE_F8E4M3, 4),
    VALUE(FA_DTYPE_F8E5M2, 5),
    VALUE(FA_DTYPE_I32, 6),
    VALUE(FA_DTYPE_U64, 7),
    VALUE(FA_DTYPE_BOOL, 8),
    VALUE(FA_DEVICE_CPU, 0),
    VALUE(FA_DEVICE_CUDA, 1),
    VALUE(FA_FORWARD, 0),
    VALUE(FA_BACKWARD, 1),
    VALUE(FA_KV_CONTIGUOUS, 0),
    VALUE(FA_KV_PAGED, 1),
    VALUE(FA_KV_POINTERS, 2),
    VALUE(FA_MASK_FULL, 0),
    VALUE(FA_MASK_CAUSAL, 1),
    VALUE(FA_MASK_TREE, 2),
    VALUE(FA_MASK_PER_REQUEST, 3),
    VALUE(FA_DIAGONAL_BOTTOM_RIGHT, 0),
    VALUE(FA_DIAGONAL_TOP_LEFT, 1),
    VALUE(FA_DIAGONAL_OFFSET, 2),
    VALUE(FA_DIAGONAL_OFFSET_PER_REQUEST, 3),
    VALUE(FA_INPUT_CU_SEQLENS_Q, 1),
    VALUE(FA_INPUT_CU_SEQLENS_K, 2),
    VALUE(FA_INPUT_SEQUSED_Q, 4),
    VALUE(FA_INPUT_SEQUSED_K, 8),
    VALUE(FA_INPUT_LEFTPAD_K, 16),
    VALUE(FA_INPUT_CACHE_BATCH_IDX, 32),
    VALUE(FA_INPUT_CU_SEQLENS_K_NEW, 64),
    VALUE(FA_INPUT_SEQLENS_ROTARY, 128),
    VALUE(FA_INPUT_DROPOUT_POINTERS, 256),
    VALUE(FA_FLAG_DETERMINISTIC, 1),
    VALUE(FA_FLAG_BATCH_INVARIANT, 2),
    VALUE(FA_FLAG_ROTARY_INTERLEAVED, 4),
    VALUE(FA_FLAG_ACCUMULATE_DQ, 8),
    VALUE(FA_FLAG_ACCUMULATE_DK, 16),
    VALUE(FA_FLAG_ACCUMULATE_DV, 32),
    VALUE(FA_FLAG_ALLOW_TF32, 64),
    VALUE(FA_FLAG_DEBUG_CHECKS, 128),
    VALUE(FA_RUN_NO_COMPILE, 1),
    VALUE(FA_LOG_ERROR, 0),
    VALUE(FA_LOG_INFO, 1),
    VALUE(FA_LOG_DEBUG, 2),
    VALUE(FA_MAX_RANK, 4),
};
/* clang-format on */

int main(void) {
  int failures = 0;
  size_t i;
  for (i = 0; i < sizeof entries / sizeof *entries; ++i) {
    if (entries[i].actual == entries[i].written) continue;
    printf("%s is %zu, written down as %zu\n", entries[i].name, entries[i].actual, entries[i].written);
    ++failures;
  }
  for (i = 0; i < sizeof constants / sizeof *constants; ++i) {
    if (constants[i].actual == constants[i].written) continue;
    printf("%s is %ld, written down as %ld\n", constants[i].name, constants[i].actual, constants[i].written);
    ++failures;
  }
  return failures == 0 ? 0 : 1;
}
