// Lengths of requests. A host can afford to check what a device would have to clamp, so nothing here is silent.

#include "cpu/requests.h"

#include <algorithm>

namespace flash_attn::cpu {
namespace {

using Long = long long;

bool is_packed_k(const Problem& p) { return p.packed_k && p.kv_layout == KvLayout::contiguous; }

// Key rows a request can hold before seqused_k and leftpad_k; of pages and pointers, no more than the description declares.
int64_t key_extent(const Problem& p, const fa_attention_args& args, int64_t r) {
  if (is_packed_k(p)) return args.cu_seqlens_k[r + 1] - args.cu_seqlens_k[r];
  return p.max_s_k;
}

// Without seqused_k a request is as long as the declared maximum allows; a table may have room for more.
int64_t used_keys(const Problem& p, const fa_attention_args& args, int64_t r) {
  return p.has_input(FA_INPUT_SEQUSED_K) ? args.seqused_k[r] : std::min(key_extent(p, args, r), p.max_s_k);
}

MaskKind mask_kind_of(const Problem& p, const fa_attention_args& args, int64_t r) {
  return p.mask_kind == MaskKind::per_request ? static_cast<MaskKind>(args.mask_kinds[r]) : p.mask_kind;
}

int64_t diagonal_of(const Problem& p, const fa_attention_args& args, int64_t r, int64_t s_q, int64_t s_k) {
  switch (p.diagonal) {
    case Diagonal::bottom_right:
      return s_k - s_q;
    case Diagonal::top_left:
      return 0;
    case Diagonal::offset:
      return p.diagonal_offset;
    case Diagonal::offset_per_request:
      return args.diagonal_offsets[r];
  }
  return 0;
}

Status check_offsets(const char* name, const int32_t* offsets, int64_t b, int64_t total, int64_t longest) {
  if (offsets[0] < 0) return invalid("%s[0] is %d but must be 0 or more", name, offsets[0]);
  for (int64_t r = 0; r < b; ++r) {
    const int64_t length = int64_t{offsets[r + 1]} - offsets[r];
    if (length < 0)
      return invalid("%s[%lld] is %d, less than %s[%lld] which is %d", name, Long{r + 1}, offsets[r + 1], name, Long{r},
                     offsets[r]);
    if (length > longest)
      return invalid("%s gives request %lld %lld rows, more than the declared maximum of %lld", name, Long{r}, Long{length},
                     Long{longest});
  }
  if (offsets[b] > total)
    return invalid("%s[%lld] is %d, more than the tensor's %lld rows", name, Long{b}, offsets[b], Long{total});
  return {};
}

Status check_range(const char* name, int64_t r, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return {};
  return invalid("%s[%lld] is %lld but must be %lld to %lld", name, Long{r}, Long{value}, Long{low}, Long{high});
}

Status check_pages(const Problem& p, const fa_attention_args& args, int64_t r, const Request& request) {
  if (request.s_k == 0) return {};
  const int32_t* row = args.block_table + r * p.block_table_stride;
  const int64_t last = (request.k_row + request.s_k - 1) / p.page_size;
  for (int64_t page = request.k_row / p.page_size; page <= last; ++page)
    if (row[page] < 0 || row[page] >= p.num_pages)
      return invalid("block_table[%lld][%lld] is %d but must be 0 to %lld", Long{r}, Long{page}, row[page], Long{p.num_pages - 1});
  return {};
}

Status check_pointers(const fa_attention_args& args, int64_t r, const Request& request) {
  if (request.s_k == 0) return {};
  if (!args.k_ptrs[r]) return invalid("k_ptrs[%lld] is null but request %lld has %lld keys", Long{r}, Long{r}, request.s_k);
  if (!args.v_ptrs[r]) return invalid("v_ptrs[%lld] is null but request %lld has %lld keys", Long{r}, Long{r}, request.s_k);
  return {};
}

Status check_request(const Problem& p, const fa_attention_args& args, int64_t r) {
  const int64_t extent_q = p.packed_q ? args.cu_seqlens_q[r + 1] - args.cu_seqlens_q[r] : p.max_s_q;
  if (p.has_input(FA_INPUT_SEQUSED_Q)) FA_TRY(check_range("seqused_q", r, args.seqused_q[r], 0, extent_q));
  const int64_t extent_k = std::min(key_extent(p, args, r), p.max_s_k);
  if (p.has_input(FA_INPUT_SEQUSED_K)) FA_TRY(check_range("seqused_k", r, args.seqused_k[r], 0, extent_k));
  if (p.has_input(FA_INPUT_LEFTPAD_K)) FA_TRY(check_range("leftpad_k", r, args.leftpad_k[r], 0, INT32_MAX));
  if (p.has_input(FA_INPUT_CACHE_BATCH_IDX)) FA_TRY(check_range("cache_batch_idx", r, args.cache_batch_idx[r], 0, p.k_batch - 1));
  if (p.mask_kind == MaskKind::per_request) FA_TRY(check_range("mask_kinds", r, args.mask_kinds[r], 0, p.has_tree_mask ? 2 : 1));
  const Request request = resolve_request(p, args, r);
  if (p.has_tree_mask && mask_kind_of(p, args, r) == MaskKind::tree)
    FA_TRY(check_range("tree_sizes", r, args.tree_sizes[r], 0, std::min<int64_t>(request.s_k, p.tree_words * 64)));
  if (p.kv_layout == KvLayout::paged) return check_pages(p, args, r, request);
  if (p.kv_layout == KvLayout::pointers) return check_pointers(args, r, request);
  return {};
}

}  // namespace

Request resolve_request(const Problem& p, const fa_attention_args& args, int64_t r) {
  Request request;
  request.index = r;
  request.q_row = p.packed_q ? args.cu_seqlens_q[r] : 0;
  const int64_t extent_q = p.packed_q ? args.cu_seqlens_q[r + 1] - args.cu_seqlens_q[r] : p.max_s_q;
  request.s_q = p.has_input(FA_INPUT_SEQUSED_Q) ? args.seqused_q[r] : extent_q;

  const int64_t padding = p.has_input(FA_INPUT_LEFTPAD_K) ? args.leftpad_k[r] : 0;
  request.s_k = std::max<int64_t>(used_keys(p, args, r) - padding, 0);
  request.k_row = padding + (is_packed_k(p) ? args.cu_seqlens_k[r] : 0);
  request.k_batch = p.has_input(FA_INPUT_CACHE_BATCH_IDX) ? args.cache_batch_idx[r] : (is_packed_k(p) ? 0 : r);

  const MaskKind kind = mask_kind_of(p, args, r);
  MaskRule& rule = request.rule;
  rule.s_k = request.s_k;
  rule.delta = diagonal_of(p, args, r, request.s_q, request.s_k);
  rule.window_left = p.window_left;
  rule.window_right = p.window_right;
  rule.first_keys = p.first_keys;
  rule.chunk = p.chunk;
  rule.causal = kind == MaskKind::causal;
  request.is_tree = kind == MaskKind::tree;
  if (request.is_tree) request.tree_prefix = request.s_k - args.tree_sizes[r];
  return request;
}

Status check_requests(const Problem& p, const fa_attention_args& args) {
  if (p.packed_q) FA_TRY(check_offsets("cu_seqlens_q", args.cu_seqlens_q, p.b, p.total_q, p.max_s_q));
  if (is_packed_k(p)) FA_TRY(check_offsets("cu_seqlens_k", args.cu_seqlens_k, p.b, p.k_rows, p.max_s_k));
  for (int64_t r = 0; r < p.b; ++r) FA_TRY(check_request(p, args, r));
  return {};
}

}  // namespace flash_attn::cpu
