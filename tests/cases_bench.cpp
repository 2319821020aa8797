// The benchmark rows of the case table: prefill, decode, packed, paged and small calls. Tests read them too, on sampled rows, so
// that what is timed is also right.
#include "tests/cases.h"

#include <algorithm>

namespace flash_attn::test {
namespace {

using Cases = std::vector<CaseSpec>;

std::string size_text(int64_t length) { return length % 1024 == 0 ? std::to_string(length / 1024) + "k" : std::to_string(length); }

// About the same work at every length: tokens * heads * length is constant down to one head.
void add_prefill(Cases* cases) {
  for (const int64_t d : {64, 128}) {
    for (const int64_t length : {256, 512, 1024, 2048, 4096, 8192}) {
      for (const bool causal : {false, true}) {
        const int64_t heads = std::max<int64_t>(2, 8192 / length);
        CaseSpec spec = {.name = "prefill_d" + std::to_string(d) + "_" + size_text(length) + (causal ? "_causal" : "_full"),
                         .labels = kBench,
                         .batch = 1,
                         .s_q = length,
                         .s_k = length,
                         .h_q = heads,
                         .h_k = heads,
                         .d = d};
        spec.mask_kind = causal ? FA_MASK_CAUSAL : FA_MASK_FULL;
        spec.lse = false;
        cases->push_back(spec);
      }
    }
    for (const int64_t length : {1024, 4096}) {
      cases->push_back({.name = "prefill_gqa_d" + std::to_string(d) + "_" + size_text(length),
                        .labels = kBench,
                        .batch = 1,
                        .s_q = length,
                        .s_k = length,
                        .h_q = 8,
                        .h_k = 2,
                        .d = d,
                        .mask_kind = FA_MASK_CAUSAL,
                        .lse = false});
      cases->push_back({.name = "prefill_one_head_d" + std::to_string(d) + "_" + size_text(length),
                        .labels = kBench,
                        .batch = 1,
                        .s_q = length,
                        .s_k = length,
                        .h_q = 1,
                        .h_k = 1,
                        .d = d,
                        .mask_kind = FA_MASK_CAUSAL,
                        .lse = false});
    }
  }
}

void add_decode(Cases* cases) {
  for (const int64_t length : {8192, 16384, 65536}) {
    const std::string size = size_text(length);
    cases->push_back({.name = "decode_gqa4_" + size,
                      .labels = kBench,
                      .batch = 1,
                      .s_q = 1,
                      .s_k = length,
                      .h_q = 32,
                      .h_k = 8,
                      .d = 128,
                      .lse = false});
    cases->push_back({.name = "decode_gqa8_" + size,
                      .labels = kBench,
                      .batch = 1,
                      .s_q = 1,
                      .s_k = length,
                      .h_q = 32,
                      .h_k = 4,
                      .d = 128,
                      .lse = false});
    cases->push_back({.name = "decode_mha_" + size,
                      .labels = kBench,
                      .batch = 1,
                      .s_q = 1,
                      .s_k = length,
                      .h_q = 8,
                      .h_k = 8,
                      .d = 128,
                      .lse = false});
  }
  cases->push_back({.name = "decode_batch_paged_16",
                    .labels = kBench,
                    .batch = 8,
                    .s_q = 1,
                    .s_k = 4096,
                    .h_q = 32,
                    .h_k = 8,
                    .d = 128,
                    .lengths_k = {4096, 17, 900, 2048, 3000, 1, 512, 4000},
                    .key_layout = KeyLayout::paged,
                    .page_size = 16,
                    .lse = false});
  cases->push_back({.name = "decode_speculative_4_rows",
                    .labels = kBench,
                    .batch = 1,
                    .s_q = 4,
                    .s_k = 8192,
                    .h_q = 32,
                    .h_k = 8,
                    .d = 128,
                    .mask_kind = FA_MASK_CAUSAL,
                    .lse = false});
}

void add_mixed(Cases* cases) {
  const std::vector<int64_t> lengths = {17, 900, 1, 300, 2048, 64, 700, 128};
  cases->push_back({.name = "packed_mixed_causal",
                    .labels = kBench,
                    .batch = 8,
                    .s_q = 2048,
                    .s_k = 2048,
                    .h_q = 8,
                    .h_k = 2,
                    .d = 128,
                    .lengths_q = lengths,
                    .lengths_k = lengths,
                    .query_layout = QueryLayout::packed,
                    .key_layout = KeyLayout::packed,
                    .mask_kind = FA_MASK_CAUSAL,
                    .lse = false});
  cases->push_back({.name = "encoder_128x128",
                    .labels = kBench,
                    .batch = 16,
                    .s_q = 128,
                    .s_k = 128,
                    .h_q = 12,
                    .h_k = 12,
                    .d = 32,
                    .lse = false});
  cases->push_back({.name = "prefill_paged_16",
                    .labels = kBench,
                    .batch = 1,
                    .s_q = 2048,
                    .s_k = 2048,
                    .h_q = 8,
                    .h_k = 2,
                    .d = 128,
                    .lengths_k = {2048},
                    .key_layout = KeyLayout::paged,
                    .page_size = 16,
                    .mask_kind = FA_MASK_CAUSAL,
                    .lse = false});
  cases->push_back({.name = "prefill_window_512",
                    .labels = kBench,
                    .batch = 1,
                    .s_q = 4096,
                    .s_k = 4096,
                    .h_q = 4,
                    .h_k = 4,
                    .d = 128,
                    .mask_kind = FA_MASK_CAUSAL,
                    .window_left = 512,
                    .lse = false});
  cases->push_back(
      {.name = "small_call_1x16", .labels = kBench, .batch = 1, .s_q = 1, .s_k = 16, .h_q = 1, .h_k = 1, .d = 64, .lse = false});
  cases->push_back(
      {.name = "small_call_16x16", .labels = kBench, .batch = 1, .s_q = 16, .s_k = 16, .h_q = 4, .h_k = 4, .d = 64, .lse = false});
}

}  // namespace

std::vector<CaseSpec> bench_cases() {
  Cases cases;
  add_prefill(&cases);
  add_decode(&cases);
  add_mixed(&cases);
  return cases;
}

}  // namespace flash_attn::test
