// The test rows of the case table. Each feature stands in at least one row of its own, so that a failure names it, and in rows that
// combine it with others. A new feature gets its rows here and its name in all_features().
#include "tests/cases.h"

namespace flash_attn::test {
namespace {

using Cases = std::vector<CaseSpec>;

void add_layouts(Cases* cases) {
  cases->push_back({.name = "dense", .batch = 2, .s_q = 37, .s_k = 53, .h_q = 2, .h_k = 2, .d = 64});
  cases->push_back({.name = "dense_large", .batch = 1, .s_q = 300, .s_k = 700, .h_q = 2, .h_k = 2, .d = 64});
  cases->push_back({.name = "dense_d128", .batch = 1, .s_q = 200, .s_k = 333, .h_q = 2, .h_k = 1, .d = 128});
  cases->push_back({.name = "gqa", .batch = 2, .s_q = 19, .s_k = 70, .h_q = 8, .h_k = 2, .d = 32});
  cases->push_back({.name = "mqa", .batch = 2, .s_q = 19, .s_k = 70, .h_q = 6, .h_k = 1, .d = 32});
  cases->push_back({.name = "gqa_odd_group", .batch = 2, .s_q = 9, .s_k = 45, .h_q = 15, .h_k = 3, .d = 48});
  cases->push_back({.name = "value_dim_smaller", .batch = 2, .s_q = 33, .s_k = 65, .h_q = 2, .h_k = 2, .d = 96, .d_v = 40});
  cases->push_back({.name = "value_dim_larger", .batch = 2, .s_q = 33, .s_k = 65, .h_q = 2, .h_k = 1, .d = 24, .d_v = 136});
  cases->push_back({.name = "latent_512_448", .batch = 1, .s_q = 5, .s_k = 70, .h_q = 4, .h_k = 1, .d = 512, .d_v = 448});
  cases->push_back({.name = "output_f32", .batch = 2, .s_q = 20, .s_k = 40, .h_q = 2, .h_k = 2, .d = 64, .strides = Strides::rows});
  cases->back().o_dtype = FA_DTYPE_F32;
  cases->push_back(
      {.name = "output_bf16", .o_dtype = FA_DTYPE_BF16, .batch = 2, .s_q = 20, .s_k = 40, .h_q = 2, .h_k = 2, .d = 64});
  cases->push_back({.name = "output_f16", .o_dtype = FA_DTYPE_F16, .batch = 2, .s_q = 20, .s_k = 40, .h_q = 2, .h_k = 2, .d = 64});
  cases->push_back(
      {.name = "heads_major", .batch = 2, .s_q = 40, .s_k = 60, .h_q = 4, .h_k = 2, .d = 64, .strides = Strides::heads});
  cases->push_back(
      {.name = "fused_rows", .batch = 2, .s_q = 40, .s_k = 60, .h_q = 4, .h_k = 2, .d = 64, .strides = Strides::fused});
  cases->push_back(
      {.name = "padded_rows", .batch = 2, .s_q = 40, .s_k = 60, .h_q = 4, .h_k = 2, .d = 40, .strides = Strides::padded});
  cases->push_back(
      {.name = "broadcast_kv", .batch = 3, .s_q = 40, .s_k = 60, .h_q = 4, .h_k = 2, .d = 64, .strides = Strides::broadcast});
  cases->push_back({.name = "without_lse", .batch = 2, .s_q = 20, .s_k = 40, .h_q = 2, .h_k = 2, .d = 64, .lse = false});
}

// Adds copies of one case, each with a change.
class Variants {
 public:
  Variants(Cases* cases, const CaseSpec& base) : cases_(*cases), base_(base) {}

  template <class Change>
  void operator()(const std::string& name, Change&& change) {
    cases_.push_back(base_);
    cases_.back().name = name;
    change(cases_.back());
  }

 private:
  Cases& cases_;
  CaseSpec base_;
};

void add_lengths(Cases* cases) {
  CaseSpec base = {.name = "", .batch = 5, .s_q = 64, .s_k = 90, .h_q = 4, .h_k = 2, .d = 64};
  base.lengths_q = {7, 0, 33, 1, 64};
  base.lengths_k = {40, 12, 0, 90, 65};
  Variants add(cases, base);
  const auto pack = [](CaseSpec& s) { s.query_layout = QueryLayout::packed, s.key_layout = KeyLayout::packed; };
  add("packed", pack);
  add("packed_seqused", [&](CaseSpec& s) { pack(s), s.seqused_q = s.seqused_k = true; });
  add("packed_seqused_leftpad_fused",
      [&](CaseSpec& s) { pack(s), s.seqused_q = s.seqused_k = true, s.leftpad = 5, s.strides = Strides::fused; });
  add("packed_q_dense_k", [](CaseSpec& s) { s.query_layout = QueryLayout::packed; });
  add("dense_q_packed_k", [](CaseSpec& s) { s.key_layout = KeyLayout::packed, s.mask_kind = FA_MASK_CAUSAL; });
  add("seqused", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL; });
}

void add_caches(Cases* cases) {
  Variants add(cases, {.name = "", .batch = 3, .s_q = 8, .s_k = 50, .h_q = 4, .h_k = 2, .d = 64, .mask_kind = FA_MASK_CAUSAL});
  const std::vector<int64_t> lengths = {50, 0, 31};
  add("leftpad", [](CaseSpec& s) { s.leftpad = 9; });
  add("leftpad_seqused", [&](CaseSpec& s) { s.leftpad = 9, s.lengths_k = lengths; });
  add("cache_index", [&](CaseSpec& s) { s.cache_batch_idx = true, s.lengths_k = lengths; });
  add("cache_index_leftpad",
      [&](CaseSpec& s) { s.cache_batch_idx = true, s.leftpad = 7, s.lengths_k = lengths, s.strides = Strides::heads; });
  add("per_request_pointers", [&](CaseSpec& s) { s.key_layout = KeyLayout::pointers, s.lengths_k = lengths; });
  add("per_request_pointers_full",
      [](CaseSpec& s) { s.key_layout = KeyLayout::pointers, s.strides = Strides::padded, s.leftpad = 3, s.s_q = 70, s.s_k = 130; });
}

void add_paged(Cases* cases) {
  for (const int64_t page_size : {1, 3, 16, 64, 256}) {
    const std::string size = std::to_string(page_size);
    cases->push_back({.name = "paged_" + size,
                      .batch = 4,
                      .s_q = 3,
                      .s_k = 300,
                      .h_q = 4,
                      .h_k = 2,
                      .d = 64,
                      .lengths_k = {300, 1, 0, 129},
                      .key_layout = KeyLayout::paged,
                      .page_size = page_size,
                      .mask_kind = FA_MASK_CAUSAL});
    cases->push_back({.name = "paged_packed_" + size,
                      .batch = 3,
                      .s_q = 70,
                      .s_k = 150,
                      .h_q = 2,
                      .h_k = 1,
                      .d = 64,
                      .lengths_q = {70, 1, 20},
                      .lengths_k = {150, 64, 20},
                      .query_layout = QueryLayout::packed,
                      .key_layout = KeyLayout::paged,
                      .strides = page_size == 16 ? Strides::heads : Strides::fused,
                      .page_size = page_size,
                      .leftpad = page_size == 3 ? 7 : 0});
  }
}

void add_masks(Cases* cases) {
  Variants add(cases, {.name = "", .batch = 2, .s_q = 40, .s_k = 75, .h_q = 2, .h_k = 2, .d = 64});
  add("causal", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL; });
  add("causal_more_rows_than_keys", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.s_q = 75, s.s_k = 40; });
  add("causal_top_left", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.diagonal = FA_DIAGONAL_TOP_LEFT; });
  add("causal_offset", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.diagonal = FA_DIAGONAL_OFFSET, s.diagonal_offset = -11; });
  add("causal_offset_per_request",
      [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.diagonal = FA_DIAGONAL_OFFSET_PER_REQUEST, s.diagonal_offset = 5; });
  add("window", [](CaseSpec& s) { s.window_left = 10, s.window_right = 5; });
  add("window_left_only", [](CaseSpec& s) { s.window_left = 0; });
  add("window_right_only", [](CaseSpec& s) { s.window_right = 0; });
  add("window_causal", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.window_left = 17, s.window_right = 9; });
  add("window_top_left", [](CaseSpec& s) { s.window_left = 3, s.window_right = 20, s.diagonal = FA_DIAGONAL_TOP_LEFT; });
  add("first_keys", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.window_left = 8, s.first_keys = 4; });
  add("first_keys_large",
      [](CaseSpec& s) { s.batch = 1, s.s_q = 300, s.s_k = 600, s.window_left = 40, s.window_right = 0, s.first_keys = 70; });
  add("chunk", [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL, s.chunk = 16; });
  add("chunk_both_sides", [](CaseSpec& s) { s.chunk = 13, s.first_keys = 3; });
  add("chunk_offset", [](CaseSpec& s) { s.chunk = 13, s.diagonal = FA_DIAGONAL_OFFSET, s.diagonal_offset = -20; });
  add("tree", [](CaseSpec& s) { s.mask_kind = FA_MASK_TREE, s.tree_size = 40, s.s_q = 40; });
  add("tree_two_words", [](CaseSpec& s) { s.mask_kind = FA_MASK_TREE, s.tree_size = 70, s.s_q = 40, s.s_k = 200; });
  add("tree_packed", [](CaseSpec& s) {
    s.mask_kind = FA_MASK_TREE, s.tree_size = 33, s.batch = 3, s.lengths_q = {33, 0, 12}, s.lengths_k = {75, 5, 12};
    s.query_layout = QueryLayout::packed, s.key_layout = KeyLayout::paged, s.window_left = 60;
  });
  add("mask_kind_per_request", [](CaseSpec& s) { s.mask_kind = FA_MASK_PER_REQUEST, s.tree_size = 20, s.batch = 6; });
  add("mask_kind_per_request_packed", [](CaseSpec& s) {
    s.mask_kind = FA_MASK_PER_REQUEST, s.tree_size = 20, s.batch = 3, s.lengths_q = {5, 40, 20}, s.lengths_k = {75, 40, 31};
    s.query_layout = QueryLayout::packed, s.key_layout = KeyLayout::packed, s.window_left = 25;
  });
}

void add_biases(Cases* cases) {
  const uint32_t all[] = {0, kBatch, kHead, kRow, kBatch | kHead, kBatch | kHead | kRow, kKey | kBatch};
  for (const uint32_t broadcast : all) {
    const std::string suffix = std::to_string(broadcast);
    cases->push_back({.name = "bias_" + suffix,
                      .batch = 2,
                      .s_q = 21,
                      .s_k = 50,
                      .h_q = 4,
                      .h_k = 2,
                      .d = 32,
                      .bias = {.present = true, .broadcast = broadcast, .as_f32 = broadcast % 2 == 1, .minus_infinity = 0.1f}});
    cases->push_back({.name = "mask_" + suffix,
                      .batch = 2,
                      .s_q = 21,
                      .s_k = 50,
                      .h_q = 4,
                      .h_k = 2,
                      .d = 32,
                      .mask = {.present = true, .broadcast = broadcast}});
  }
  for (const uint32_t broadcast : {0u, uint32_t{kHead}, uint32_t{kRow}, uint32_t{kHead | kRow}}) {
    const std::string suffix = std::to_string(broadcast);
    cases->push_back({.name = "bias_mask_packed_" + suffix,
                      .batch = 3,
                      .s_q = 21,
                      .s_k = 50,
                      .h_q = 4,
                      .h_k = 2,
                      .d = 32,
                      .lengths_q = {3, 21, 10},
                      .lengths_k = {50, 21, 33},
                      .query_layout = QueryLayout::packed,
                      .key_layout = KeyLayout::packed,
                      .mask_kind = FA_MASK_CAUSAL,
                      .bias = {.present = true, .broadcast = broadcast, .as_f32 = true},
                      .mask = {.present = true, .broadcast = broadcast}});
  }
  cases->push_back({.name = "bias_mask_seqused",
                    .batch = 3,
                    .s_q = 21,
                    .s_k = 300,
                    .h_q = 2,
                    .h_k = 2,
                    .d = 64,
                    .lengths_q = {3, 21, 10},
                    .lengths_k = {300, 21, 133},
                    .strides = Strides::padded,
                    .leftpad = 6,
                    .bias = {.present = true},
                    .mask = {.present = true}});
}

void add_scores(Cases* cases) {
  Variants add(cases, {.name = "", .batch = 2, .s_q = 40, .s_k = 90, .h_q = 4, .h_k = 2, .d = 64});
  add("scale", [](CaseSpec& s) { s.scale = 0.25f; });
  add("scale_negative", [](CaseSpec& s) { s.scale = -0.1f; });
  add("scale_zero", [](CaseSpec& s) { s.scale = 0.0f; });
  add("softcap", [](CaseSpec& s) { s.softcap = 5.0f, s.magnitude = 8.0f; });
  add("softcap_causal_bias", [](CaseSpec& s) { s.softcap = 30.0f, s.mask_kind = FA_MASK_CAUSAL, s.bias.present = true; });
  add("alibi", [](CaseSpec& s) { s.alibi = 1, s.mask_kind = FA_MASK_CAUSAL; });
  add("alibi_full", [](CaseSpec& s) { s.alibi = 2; });
  add("alibi_top_left_softcap", [](CaseSpec& s) { s.alibi = 2, s.diagonal = FA_DIAGONAL_TOP_LEFT, s.softcap = 20.0f; });
  add("sink", [](CaseSpec& s) { s.sink = true, s.mask_kind = FA_MASK_CAUSAL; });
  add("sink_window", [](CaseSpec& s) { s.sink = true, s.window_left = 12, s.window_right = 0; });
  add("sink_empty_rows", [](CaseSpec& s) { s.sink = true, s.mask_kind = FA_MASK_CAUSAL, s.s_q = 90, s.s_k = 40; });
  add("dropout", [](CaseSpec& s) { s.dropout_p = 0.3f; });
  add("dropout_causal_pointers",
      [](CaseSpec& s) { s.dropout_p = 0.1f, s.dropout_pointers = true, s.mask_kind = FA_MASK_CAUSAL, s.sink = true; });
  add("dropout_packed", [](CaseSpec& s) {
    s.dropout_p = 0.5f, s.batch = 3, s.lengths_q = {40, 1, 17}, s.lengths_k = {90, 65, 17};
    s.query_layout = QueryLayout::packed, s.key_layout = KeyLayout::packed;
  });
  add("large_logits", [](CaseSpec& s) { s.magnitude = 4000.0f, s.scale = 1.0f, s.mask_kind = FA_MASK_CAUSAL; });
  add("everything", [](CaseSpec& s) {
    s.batch = 3, s.lengths_q = {40, 7, 33}, s.lengths_k = {90, 64, 33}, s.query_layout = QueryLayout::packed;
    s.key_layout = KeyLayout::paged, s.page_size = 8, s.leftpad = 5, s.mask_kind = FA_MASK_CAUSAL, s.window_left = 50;
    s.first_keys = 3, s.softcap = 15.0f, s.alibi = 2, s.bias = {.present = true, .broadcast = kHead}, s.mask.present = true;
    s.sink = true, s.dropout_p = 0.2f, s.strides = Strides::padded, s.seqused_q = true, s.d_v = 80;
  });
}

void add_splits(Cases* cases) {
  Variants add(cases, {.name = "", .batch = 2, .s_q = 1, .s_k = 2000, .h_q = 8, .h_k = 2, .d = 64, .lengths_k = {2000, 700}});
  add("decode", [](CaseSpec&) {});
  add("decode_mha", [](CaseSpec& s) { s.h_q = s.h_k = 3; });
  add("decode_d128_gqa8", [](CaseSpec& s) { s.d = 128, s.h_q = 8, s.h_k = 1; });
  add("decode_many_splits", [](CaseSpec& s) { s.s_k = 4000, s.lengths_k = {4000, 1500}, s.h_q = s.h_k = 1; });
  add("decode_odd_dims", [](CaseSpec& s) { s.d = 77, s.d_v = 51; });
  add("decode_paged", [](CaseSpec& s) { s.key_layout = KeyLayout::paged; });
  add("decode_sink_window", [](CaseSpec& s) { s.sink = true, s.window_left = 900, s.first_keys = 5; });
  add("num_splits", [](CaseSpec& s) { s.num_splits = 5; });
  add("num_splits_more_than_keys", [](CaseSpec& s) { s.num_splits = 9, s.s_k = 4, s.lengths_k = {4, 2}, s.sink = true; });
  add("num_splits_prefill", [](CaseSpec& s) { s.num_splits = 3, s.s_q = 40, s.mask_kind = FA_MASK_CAUSAL; });
  add("split_size", [](CaseSpec& s) { s.split_size = 256, s.sink = true; });
  add("split_size_paged", [](CaseSpec& s) { s.split_size = 100, s.key_layout = KeyLayout::paged, s.page_size = 3; });
  add("batch_invariant", [](CaseSpec& s) { s.flags = FA_FLAG_BATCH_INVARIANT; });
  add("batch_invariant_prefill", [](CaseSpec& s) {
    s.flags = FA_FLAG_BATCH_INVARIANT, s.s_q = 60, s.lengths_q = {60, 9}, s.mask_kind = FA_MASK_CAUSAL;
  });
}

}  // namespace

std::vector<CaseSpec> table_cases() {
  Cases cases;
  add_layouts(&cases);
  add_lengths(&cases);
  add_caches(&cases);
  add_paged(&cases);
  add_masks(&cases);
  add_biases(&cases);
  add_scores(&cases);
  add_splits(&cases);
  return cases;
}

}  // namespace flash_attn::test
