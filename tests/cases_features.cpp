// Which features a case uses: the rows of the coverage tables.
#include "tests/cases_text.h"

#include <algorithm>

namespace flash_attn::test {

const char* layout_text(KeyLayout layout) {
  switch (layout) {
    case KeyLayout::packed:
      return "packed";
    case KeyLayout::paged:
      return "paged";
    case KeyLayout::pointers:
      return "pointers";
    default:
      return "dense";
  }
}

const char* strides_text(Strides strides) {
  switch (strides) {
    case Strides::heads:
      return "heads";
    case Strides::fused:
      return "fused";
    case Strides::padded:
      return "padded";
    case Strides::broadcast:
      return "broadcast";
    default:
      return "rows";
  }
}

const char* mask_kind_text(fa_mask_kind kind) {
  switch (kind) {
    case FA_MASK_CAUSAL:
      return "causal";
    case FA_MASK_TREE:
      return "tree";
    case FA_MASK_PER_REQUEST:
      return "mask kind per request";
    default:
      return "full";
  }
}

const char* diagonal_text(fa_diagonal diagonal) {
  switch (diagonal) {
    case FA_DIAGONAL_TOP_LEFT:
      return "diagonal top-left";
    case FA_DIAGONAL_OFFSET:
      return "diagonal offset";
    case FA_DIAGONAL_OFFSET_PER_REQUEST:
      return "diagonal per request";
    default:
      return "diagonal bottom-right";
  }
}

namespace {

bool uses_diagonal(const CaseSpec& spec) {
  return spec.mask_kind == FA_MASK_CAUSAL || spec.mask_kind == FA_MASK_PER_REQUEST || spec.window_left >= 0 ||
         spec.window_right >= 0 || spec.chunk > 0 || spec.alibi != 0;
}

void add_layout_features(const CaseSpec& spec, std::vector<std::string>* names) {
  names->push_back(spec.query_layout == QueryLayout::packed ? "q packed" : "q dense");
  names->push_back(std::string("kv ") + layout_text(spec.key_layout));
  if (spec.strides != Strides::rows) names->push_back(std::string("strides ") + strides_text(spec.strides));
  if (uses_seqused_q(spec)) names->push_back("seqused_q");
  if (uses_seqused_k(spec)) names->push_back("seqused_k");
  if (spec.leftpad > 0) names->push_back("left padding");
  if (spec.cache_batch_idx) names->push_back("cache batch index");
  if (spec.h_k < spec.h_q) names->push_back(spec.h_k == 1 ? "MQA" : "GQA");
  if (spec.value_dim() != spec.d) names->push_back("d_v != d");
  if (spec.o_dtype != FA_DTYPE_NONE) names->push_back("output dtype");
}

void add_score_features(const CaseSpec& spec, std::vector<std::string>* names) {
  if (spec.mask_kind != FA_MASK_FULL) names->push_back(mask_kind_text(spec.mask_kind));
  if (uses_diagonal(spec)) names->push_back(diagonal_text(spec.diagonal));
  if (spec.window_left >= 0 || spec.window_right >= 0) names->push_back("window");
  if (spec.first_keys > 0) names->push_back("first keys");
  if (spec.chunk > 0) names->push_back("chunk");
  if (!std::isnan(spec.scale)) names->push_back("scale");
  if (spec.softcap > 0) names->push_back("softcap");
  if (spec.alibi == 1) names->push_back("ALiBi per head");
  if (spec.alibi == 2) names->push_back("ALiBi per request and head");
  if (spec.bias.present) names->push_back(spec.query_layout == QueryLayout::packed ? "bias packed" : "bias dense");
  if (spec.bias.present && spec.bias.broadcast != 0) names->push_back("bias broadcast");
  if (spec.mask.present) names->push_back(spec.query_layout == QueryLayout::packed ? "bool mask packed" : "bool mask dense");
  if (spec.mask.present && spec.mask.broadcast != 0) names->push_back("bool mask broadcast");
  if (spec.sink) names->push_back("sink");
  if (spec.dropout_p > 0) names->push_back("dropout");
  if (spec.dropout_pointers) names->push_back("dropout pointers");
  if (spec.lse) names->push_back("lse");
  if (spec.num_splits > 0) names->push_back("num_splits");
  if (spec.split_size > 0) names->push_back("split_size");
  if (spec.flags & FA_FLAG_BATCH_INVARIANT) names->push_back("batch_invariant");
}

void add_gradient_features(const CaseSpec& spec, std::vector<std::string>* names) {
  if (spec.gradients.dlse) names->push_back("dlse");
  if (spec.gradients.dbias) names->push_back("dbias");
  if (spec.gradients.dsink) names->push_back("dsink");
  if (spec.gradients.dslopes) names->push_back("dslopes");
  if (spec.gradients.as_f32) names->push_back("f32 gradients");
  if (spec.gradients.strides != Strides::rows) {
    names->push_back(std::string("gradient strides ") + strides_text(spec.gradients.strides));
  }
  if (spec.flags & (FA_FLAG_ACCUMULATE_DQ | FA_FLAG_ACCUMULATE_DK | FA_FLAG_ACCUMULATE_DV)) names->push_back("accumulate");
  if (spec.flags & FA_FLAG_DETERMINISTIC) names->push_back("deterministic");
}

}  // namespace

std::vector<std::string> features(const CaseSpec& spec) {
  std::vector<std::string> names;
  add_layout_features(spec, &names);
  add_score_features(spec, &names);
  if (spec.direction == FA_BACKWARD) add_gradient_features(spec, &names);
  return names;
}

const std::vector<std::string>& all_features() {
  static const std::vector<std::string> names = {"q dense",
                                                 "q packed",
                                                 "kv dense",
                                                 "kv packed",
                                                 "kv paged",
                                                 "kv pointers",
                                                 "strides heads",
                                                 "strides fused",
                                                 "strides padded",
                                                 "strides broadcast",
                                                 "seqused_q",
                                                 "seqused_k",
                                                 "left padding",
                                                 "cache batch index",
                                                 "GQA",
                                                 "MQA",
                                                 "d_v != d",
                                                 "output dtype",
                                                 "causal",
                                                 "tree",
                                                 "mask kind per request",
                                                 "diagonal bottom-right",
                                                 "diagonal top-left",
                                                 "diagonal offset",
                                                 "diagonal per request",
                                                 "window",
                                                 "first keys",
                                                 "chunk",
                                                 "scale",
                                                 "softcap",
                                                 "ALiBi per head",
                                                 "ALiBi per request and head",
                                                 "bias dense",
                                                 "bias packed",
                                                 "bias broadcast",
                                                 "bool mask dense",
                                                 "bool mask packed",
                                                 "bool mask broadcast",
                                                 "sink",
                                                 "dropout",
                                                 "dropout pointers",
                                                 "lse",
                                                 "num_splits",
                                                 "split_size",
                                                 "batch_invariant"};
  return names;
}

const std::vector<std::string>& all_backward_features() {
  static const std::vector<std::string> names = [] {
    // What a backward refuses, and what each of its cases has.
    const std::vector<std::string> forward_only = {"kv paged", "kv pointers", "cache batch index",
                                                   "lse",      "num_splits",  "split_size"};
    std::vector<std::string> list;
    for (const std::string& name : all_features()) {
      if (std::find(forward_only.begin(), forward_only.end(), name) == forward_only.end()) list.push_back(name);
    }
    for (const char* name : {"dlse", "dbias", "dsink", "dslopes", "f32 gradients", "gradient strides heads",
                             "gradient strides fused", "gradient strides padded", "accumulate", "deterministic"}) {
      list.push_back(name);
    }
    return list;
  }();
  return names;
}

}  // namespace flash_attn::test
