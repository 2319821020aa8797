// A problem as one line of text, for explain and logs: dims, layout, mask, then each feature in use.
#include "core/problem.h"

namespace flash_attn {
namespace {

const char* mask_name(MaskKind kind) {
  switch (kind) {
    case MaskKind::full:
      return "full";
    case MaskKind::causal:
      return "causal";
    case MaskKind::tree:
      return "tree";
    case MaskKind::per_request:
      return "mask per request";
  }
  return "unknown mask";
}

std::string layout_text(const Problem& problem) {
  std::string text = problem.packed_q ? "packed q" : "dense q";
  switch (problem.kv_layout) {
    case KvLayout::contiguous:
      return text + (problem.packed_k ? ", packed k" : ", dense k");
    case KvLayout::paged:
      return text + format_text(", paged k (%lld pages of %lld)", static_cast<long long>(problem.num_pages),
                                static_cast<long long>(problem.page_size));
    case KvLayout::pointers:
      return text + ", k by pointers";
  }
  return text;
}

std::string mask_text(const Problem& problem) {
  std::string text = mask_name(problem.mask_kind);
  switch (problem.diagonal) {
    case Diagonal::bottom_right:
      break;
    case Diagonal::top_left:
      text += ", diagonal top-left";
      break;
    case Diagonal::offset:
      text += format_text(", diagonal offset %lld", static_cast<long long>(problem.diagonal_offset));
      break;
    case Diagonal::offset_per_request:
      text += ", diagonal offset per request";
      break;
  }
  if (problem.window_left >= 0 || problem.window_right >= 0) {
    text += format_text(", window (%lld, %lld)", static_cast<long long>(problem.window_left),
                        static_cast<long long>(problem.window_right));
  }
  if (problem.first_keys > 0) text += format_text(", first %lld keys visible", static_cast<long long>(problem.first_keys));
  if (problem.chunk > 0) text += format_text(", chunks of %lld", static_cast<long long>(problem.chunk));
  return text;
}

void add_if(bool condition, const char* name, std::string* text) {
  if (condition) *text += std::string(", ") + name;
}

std::string feature_text(const Problem& problem) {
  std::string text;
  if (problem.softcap > 0) text += format_text(", softcap %g", static_cast<double>(problem.softcap));
  if (problem.dropout_p > 0) text += format_text(", dropout %g", static_cast<double>(problem.dropout_p));
  add_if(problem.has_alibi, "alibi", &text);
  if (problem.has_bias) text += format_text(", bias %s", dtype_name(problem.bias_dtype));
  add_if(problem.has_mask, "boolean mask", &text);
  add_if(problem.has_tree_mask && problem.mask_kind == MaskKind::per_request, "tree mask", &text);
  add_if(problem.has_sink, "sink", &text);
  add_if(problem.has_lse, "lse", &text);
  add_if(problem.has_input(FA_INPUT_SEQUSED_Q), "seqused_q", &text);
  add_if(problem.has_input(FA_INPUT_SEQUSED_K), "seqused_k", &text);
  add_if(problem.has_input(FA_INPUT_LEFTPAD_K), "leftpad_k", &text);
  add_if(problem.has_input(FA_INPUT_CACHE_BATCH_IDX), "cache_batch_idx", &text);
  add_if(problem.has_append, "append", &text);
  add_if(problem.has_rotary, "rotary", &text);
  add_if(problem.has_descale, "descales", &text);
  add_if(problem.has_score_mod, "score_mod", &text);
  add_if(problem.has_flag(FA_FLAG_BATCH_INVARIANT), "batch invariant", &text);
  add_if(problem.has_flag(FA_FLAG_DETERMINISTIC), "deterministic", &text);
  add_if(problem.has_dlse, "dlse", &text);
  add_if(problem.has_dbias, "dbias", &text);
  add_if(problem.has_dsink, "dsink", &text);
  add_if(problem.has_dslopes, "dslopes", &text);
  add_if(problem.accumulates_dq, "adds to dq", &text);
  add_if(problem.accumulates_dk, "adds to dk", &text);
  add_if(problem.accumulates_dv, "adds to dv", &text);
  if (problem.num_splits > 0) text += format_text(", %d splits", problem.num_splits);
  if (problem.split_size > 0) text += format_text(", splits of %lld keys", static_cast<long long>(problem.split_size));
  if (!problem.kernel.empty()) text += ", kernel " + problem.kernel;
  if (!problem.isa.empty()) text += ", isa " + problem.isa;
  return text;
}

}  // namespace

std::string describe(const Problem& problem) {
  std::string text = format_text(
      "%s on %s, %s to %s, b %lld, s_q %lld, s_k %lld, h_q %lld, h_k %lld, d %lld, d_v %lld, ",
      problem.direction == Direction::forward ? "forward" : "backward", problem.device_type == FA_DEVICE_CPU ? "cpu" : "cuda",
      dtype_name(problem.dtype), dtype_name(problem.o_dtype), static_cast<long long>(problem.b),
      static_cast<long long>(problem.max_s_q), static_cast<long long>(problem.max_s_k), static_cast<long long>(problem.h_q),
      static_cast<long long>(problem.h_k), static_cast<long long>(problem.d), static_cast<long long>(problem.d_v));
  return text + layout_text(problem) + ", " + mask_text(problem) + feature_text(problem);
}

}  // namespace flash_attn
