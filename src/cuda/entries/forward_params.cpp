// See forward_params.h.
#include "cuda/entries/forward_params.h"

#include "math/philox.h"

namespace flash_attn::cuda {
namespace {

int to_int(int64_t value) { return static_cast<int>(value); }

unsigned at_least_one(int64_t value) { return value < 1 ? 1u : static_cast<unsigned>(value); }

void shape_keys(const Problem& p, ForwardParams* to) {
  to->key_source = static_cast<KeySource>(p.kv_layout);
  to->k_axes = p.k;
  to->v_axes = p.v;
  to->block_table_stride = p.block_table_stride;
  to->page_size = make_divisor(at_least_one(p.page_size));
  to->num_pages = to_int(p.num_pages);
  to->k_rows = to_int(p.k_rows);
  to->k_batch = to_int(p.k_batch);
  // A cache without rows has none to give, whatever the lengths say.
  const bool is_empty = p.kv_layout == KvLayout::paged ? p.num_pages == 0 : p.k_batch == 0;
  to->max_s_k = is_empty ? 0 : to_int(p.max_s_k);
}

void shape_scores(const Problem& p, ForwardParams* to) {
  to->window_left = p.window_left;
  to->window_right = p.window_right;
  to->first_keys = p.first_keys;
  to->chunk = p.chunk;
  to->diagonal = static_cast<DiagonalKind>(p.diagonal);
  to->diagonal_offset = p.diagonal_offset;
  to->mask_kind = p.mask_kind;
  to->scale = p.scale;
  to->softcap = p.softcap;
  if (p.softcap > 0) to->inverse_cap = p.scale / p.softcap;
  to->alibi_batch_stride = p.alibi_batch_stride;
  to->bias_axes = p.bias;
  to->mask_axes = p.mask;
  to->tree_batch_stride = p.tree_batch_stride;
  to->tree_row_stride = p.tree_row_stride;
  to->tree_words = to_int(p.tree_words);
  if (p.dropout_p > 0) {
    to->dropout_threshold = dropout_threshold(p.dropout_p);
    to->keep_scale = 1.0f / (1.0f - p.dropout_p);
  }
}

}  // namespace

bool reads_lengths(const Problem& p) {
  constexpr uint32_t kLengths = FA_INPUT_CU_SEQLENS_Q | FA_INPUT_CU_SEQLENS_K | FA_INPUT_SEQUSED_Q | FA_INPUT_SEQUSED_K |
                                FA_INPUT_LEFTPAD_K | FA_INPUT_CACHE_BATCH_IDX;
  return (p.inputs & kLengths) != 0 || p.kv_layout == KvLayout::pointers;
}

ForwardParams shape_params(const Problem& p, bool packs) {
  ForwardParams to;
  to.q_axes = p.q;
  to.o_axes = p.o;
  to.lse_axes = p.lse;
  to.b = to_int(p.b);
  to.max_s_q = to_int(p.max_s_q);
  to.total_q = to_int(p.total_q);
  to.slots = to_int(packs ? p.h_k : p.h_q);
  to.pack = make_divisor(at_least_one(packs ? p.group : 1));
  to.slot_group = make_divisor(at_least_one(packs ? 1 : p.group));
  to.heads = to_int(p.b * to.slots);
  shape_keys(p, &to);
  shape_scores(p, &to);
  return to;
}

void bind_pointers(const Problem& p, const fa_attention_args& args, ForwardParams* to) {
  to->q = static_cast<const char*>(args.q);
  to->k = static_cast<const char*>(args.k);
  to->v = static_cast<const char*>(args.v);
  to->o = static_cast<char*>(args.o);
  to->lse = args.lse;
  to->cu_seqlens_q = args.cu_seqlens_q;
  to->cu_seqlens_k = args.cu_seqlens_k;
  to->seqused_q = args.seqused_q;
  to->seqused_k = args.seqused_k;
  to->leftpad_k = args.leftpad_k;
  to->cache_batch_idx = args.cache_batch_idx;
  to->block_table = args.block_table;
  to->k_ptrs = args.k_ptrs;
  to->v_ptrs = args.v_ptrs;
  to->mask_kinds = args.mask_kinds;
  to->diagonal_offsets = args.diagonal_offsets;
  to->tree_sizes = args.tree_sizes;
  to->alibi = args.alibi;
  to->bias = static_cast<const char*>(args.bias);
  to->bool_mask = args.mask;
  to->tree = reinterpret_cast<const unsigned long long*>(args.tree_mask);
  to->sink = args.sink;
  to->dropout_seed = args.dropout_seed;
  to->dropout_offset = args.dropout_offset;
  if (p.has_input(FA_INPUT_DROPOUT_POINTERS)) {
    to->dropout_seed_ptr = reinterpret_cast<const unsigned long long*>(args.dropout_seed_ptr);
    to->dropout_offset_ptr = reinterpret_cast<const unsigned long long*>(args.dropout_offset_ptr);
  }
}

}  // namespace flash_attn::cuda
