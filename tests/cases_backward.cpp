// The backward rows of the case table: those of the forward table that have a derivative, rows for what only a backward has, and
// the benchmark's.
#include "tests/cases.h"

#include <algorithm>

namespace flash_attn::test {
namespace {

using Cases = std::vector<CaseSpec>;

// A backward makes its weights again as exp(score - lse), both in fp32, so that they are known to about |lse| 2^-24. Beyond this
// there is nothing left to compare to the tolerance, unless a kernel makes more of an effort (BackwardEdges.HugeLogits).
constexpr float kMostMagnitude = 30.0f;

// Rows about caches and key splits have no backward. Those that use one among other things run on contiguous keys.
bool has_backward(const CaseSpec& spec) {
  if (spec.num_splits != 0 || spec.split_size != 0 || spec.cache_batch_idx) return false;
  const bool is_cache = spec.key_layout == KeyLayout::paged || spec.key_layout == KeyLayout::pointers;
  return !is_cache || spec.mask_kind == FA_MASK_TREE || spec.dropout_p > 0;
}

void add_forward_rows(Cases* cases) {
  for (const CaseSpec& spec : table_cases()) {
    if (!has_backward(spec)) continue;
    cases->push_back(backward_of(spec));
    CaseSpec& backward = cases->back();
    backward.gradients.dlse = cases->size() % 2 == 0;
    if (spec.magnitude > kMostMagnitude) backward.magnitude = kMostMagnitude, backward.scale = CaseSpec().scale;
  }
}

// Rows for what only a backward has.
void add_own_rows(Cases* cases) {
  CaseSpec base = {.name = "", .batch = 2, .s_q = 37, .s_k = 53, .h_q = 4, .h_k = 2, .d = 64, .mask_kind = FA_MASK_CAUSAL};
  base = backward_of(base);
  const auto add = [&](const char* name, auto&& change) {
    cases->push_back(base);
    cases->back().name = name;
    change(cases->back());
  };
  const auto lengths = [](CaseSpec& s) { s.batch = 3, s.lengths_q = {37, 0, 12}, s.lengths_k = {53, 9, 30}; };
  const auto pack = [&](CaseSpec& s) {
    lengths(s);
    s.query_layout = QueryLayout::packed;
    s.key_layout = KeyLayout::packed;
  };
  constexpr uint32_t kAll = FA_FLAG_ACCUMULATE_DQ | FA_FLAG_ACCUMULATE_DK | FA_FLAG_ACCUMULATE_DV;
  const auto everything = [](CaseSpec& s) {
    s.alibi = 1, s.sink = true, s.bias = {.present = true, .broadcast = kBatch}, s.softcap = 12.0f;
    s.gradients.dlse = s.gradients.dbias = s.gradients.dsink = s.gradients.dslopes = true;
  };
  add("accumulate_dq", [](CaseSpec& s) { s.flags = FA_FLAG_ACCUMULATE_DQ; });
  add("accumulate_dk", [](CaseSpec& s) { s.flags = FA_FLAG_ACCUMULATE_DK; });
  add("accumulate_dv", [](CaseSpec& s) { s.flags = FA_FLAG_ACCUMULATE_DV; });
  add("accumulate_all_packed", [&](CaseSpec& s) { pack(s), s.flags = kAll, s.seqused_q = s.seqused_k = true, s.leftpad = 3; });
  add("accumulate_all_seqused_f32", [&](CaseSpec& s) { lengths(s), s.flags = kAll, s.gradients.as_f32 = true; });
  add("f32_gradients", [](CaseSpec& s) { s.gradients.as_f32 = true; });
  add("f32_gradients_heads", [](CaseSpec& s) { s.gradients.as_f32 = true, s.gradients.strides = Strides::heads; });
  add("gradients_heads", [](CaseSpec& s) { s.gradients.strides = Strides::heads, s.d_v = 40; });
  add("gradients_fused_packed", [&](CaseSpec& s) { pack(s), s.gradients.strides = Strides::fused, s.seqused_q = true; });
  add("gradients_padded", [](CaseSpec& s) { s.gradients.strides = Strides::padded, s.d = 33, s.d_v = 48; });
  add("deterministic", [&](CaseSpec& s) { s.flags = FA_FLAG_DETERMINISTIC, everything(s), s.s_q = 150, s.s_k = 260; });
  add("deterministic_packed", [&](CaseSpec& s) { pack(s), everything(s), s.flags = FA_FLAG_DETERMINISTIC; });
  add("deterministic_d256", [](CaseSpec& s) { s.flags = FA_FLAG_DETERMINISTIC, s.d = 256, s.s_q = 100, s.s_k = 130; });
  add("only_required", [&](CaseSpec& s) { everything(s), s.gradients = {}; });
  add("dlse_alone", [](CaseSpec& s) { s.gradients.dlse = true, s.h_k = 4, s.d_v = 96; });
  add("dbias_alone", [](CaseSpec& s) { s.bias.present = s.gradients.dbias = true, s.mask_kind = FA_MASK_FULL; });
  add("dsink_of_empty_rows", [](CaseSpec& s) { s.sink = s.gradients.dsink = s.gradients.dlse = true, s.s_q = 90, s.s_k = 40; });
  add("more_heads_than_threads", [](CaseSpec& s) { s.batch = 4, s.h_q = 24, s.h_k = 3, s.s_q = 20, s.s_k = 20, s.d = 16; });
  add("long_keys", [](CaseSpec& s) { s.batch = 1, s.h_q = s.h_k = 1, s.s_q = 30, s.s_k = 1500; });
  add("long_queries", [](CaseSpec& s) { s.batch = 1, s.h_q = 2, s.h_k = 1, s.s_q = 1100, s.s_k = 200; });
  add("one_head", [](CaseSpec& s) { s.batch = 1, s.h_q = s.h_k = 1, s.s_q = s.s_k = 700; });
}

void add_bench_rows(Cases* cases) {
  const auto add = [&](const CaseSpec& forward) {
    cases->push_back(backward_of(forward));
    cases->back().labels = kBench;
  };
  for (const int64_t d : {64, 128}) {
    for (const int64_t length : {512, 1024, 2048, 4096}) {
      for (const bool causal : {false, true}) {
        CaseSpec spec = {.name = "backward_d" + std::to_string(d) + "_" + std::to_string(length) + (causal ? "_causal" : "_full")};
        spec.s_q = spec.s_k = length;
        spec.h_q = spec.h_k = std::max<int64_t>(2, 4096 / length);
        spec.d = d;
        spec.mask_kind = causal ? FA_MASK_CAUSAL : FA_MASK_FULL;
        add(spec);
      }
    }
    CaseSpec spec = {.name = "backward_gqa_d" + std::to_string(d) + "_2048", .s_q = 2048, .s_k = 2048, .h_q = 8, .h_k = 1, .d = d};
    spec.mask_kind = FA_MASK_CAUSAL;
    add(spec);
    spec.name = "backward_one_head_d" + std::to_string(d) + "_4096";
    spec.s_q = spec.s_k = 4096;
    spec.h_q = 1;
    add(spec);
  }
  CaseSpec packed = {.name = "backward_packed_causal", .batch = 8, .s_q = 2048, .s_k = 2048, .h_q = 8, .h_k = 2, .d = 128};
  packed.lengths_q = packed.lengths_k = {17, 900, 1, 300, 2048, 64, 700, 128};
  packed.query_layout = QueryLayout::packed;
  packed.key_layout = KeyLayout::packed;
  packed.mask_kind = FA_MASK_CAUSAL;
  add(packed);
  CaseSpec window = {.name = "backward_window_512", .s_q = 4096, .s_k = 4096, .h_q = 2, .h_k = 2, .d = 128};
  window.mask_kind = FA_MASK_CAUSAL;
  window.window_left = 512;
  add(window);
  CaseSpec softcap = {.name = "backward_softcap", .s_q = 2048, .s_k = 2048, .h_q = 4, .h_k = 4, .d = 128};
  softcap.softcap = 30.0f;
  add(softcap);
  add({.name = "backward_small_16x16", .s_q = 16, .s_k = 16, .h_q = 4, .h_k = 4, .d = 64});
}

}  // namespace

CaseSpec backward_of(const CaseSpec& spec) {
  CaseSpec backward = spec;
  backward.direction = FA_BACKWARD;
  backward.lse = true;
  backward.num_splits = 0;
  backward.split_size = 0;
  backward.cache_batch_idx = false;
  if (spec.key_layout == KeyLayout::paged || spec.key_layout == KeyLayout::pointers) {
    backward.key_layout = spec.query_layout == QueryLayout::packed ? KeyLayout::packed : KeyLayout::dense;
  }
  backward.gradients.dbias = spec.bias.present;
  backward.gradients.dsink = spec.sink;
  backward.gradients.dslopes = spec.alibi != 0;
  backward.gradients.strides = spec.strides == Strides::broadcast ? Strides::rows : spec.strides;
  return backward;
}

const std::vector<CaseSpec>& backward_cases() {
  static const Cases cases = [] {
    Cases all;
    add_forward_rows(&all);
    add_own_rows(&all);
    add_bench_rows(&all);
    return all;
  }();
  return cases;
}

}  // namespace flash_attn::test
