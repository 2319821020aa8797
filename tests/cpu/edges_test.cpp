// Sizes where code changes its course: lengths around block edges, every sort of head dim, empty and one-element requests.
#include "tests/support/check.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace flash_attn::test {
namespace {

constexpr int64_t kLengths[] = {15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025};
constexpr int64_t kDims[] = {1,   2,   3,   4,   5,   7,   8,   9,   12,  15,  16,  17,  20,  24,  31,  32,
                             33,  40,  47,  48,  49,  56,  63,  64,  65,  72,  79,  80,  81,  95,  96,  97,
                             111, 112, 113, 127, 128, 129, 144, 159, 160, 161, 191, 192, 193, 200, 224, 255,
                             256, 257, 287, 300, 320, 383, 384, 385, 400, 448, 500, 511, 512};

TEST(Edges, KeyLengths) {
  for (const int64_t length : kLengths) {
    for (const int64_t rows : {1, 2, 17, 33}) {
      CaseSpec spec = {.name = "key_lengths", .s_q = rows, .s_k = length, .h_q = 4, .h_k = 2, .d = 8};
      spec.mask_kind = length % 2 == 0 ? FA_MASK_FULL : FA_MASK_CAUSAL;
      ASSERT_EQ(check_case(spec, static_cast<uint64_t>(length)), "");
    }
  }
}

TEST(Edges, QueryLengths) {
  for (const int64_t length : kLengths) {
    for (const int64_t keys : {int64_t{1}, int64_t{33}, std::min<int64_t>(length, 520)}) {
      CaseSpec spec = {.name = "query_lengths", .s_q = length, .s_k = keys, .h_q = 2, .h_k = 1, .d = 8};
      spec.mask_kind = FA_MASK_CAUSAL;
      ASSERT_EQ(check_case(spec, static_cast<uint64_t>(length)), "");
    }
  }
}

TEST(Edges, HeadDims) {
  const size_t count = std::size(kDims);
  for (size_t n = 0; n < count; ++n) {
    const int64_t d = kDims[n];
    for (const int64_t d_v : {d, kDims[(n * 7 + 3) % count]}) {
      for (const int64_t rows : {1, 9}) {
        const CaseSpec spec = {.name = "head_dims", .s_q = rows, .s_k = 35, .h_q = 4, .h_k = 2, .d = d, .d_v = d_v};
        ASSERT_EQ(check_case(spec, static_cast<uint64_t>(d)), "");
      }
    }
  }
}

// 0 and 1 in every place of a packed batch.
TEST(Edges, EmptyAndSingle) {
  for (const KeyLayout layout : {KeyLayout::dense, KeyLayout::packed, KeyLayout::paged, KeyLayout::pointers}) {
    CaseSpec spec = {.name = "empty_and_single", .batch = 9, .s_q = 2, .s_k = 2, .h_q = 2, .h_k = 2, .d = 16};
    for (int64_t n = 0; n < 9; ++n) {
      spec.lengths_q.push_back(n % 3);
      spec.lengths_k.push_back(n / 3);
    }
    spec.query_layout = QueryLayout::packed;
    spec.key_layout = layout;
    spec.page_size = 1;
    ASSERT_EQ(check_case(spec, 1), "");
    spec.mask_kind = FA_MASK_CAUSAL;
    spec.sink = true;
    ASSERT_EQ(check_case(spec, 2), "");
  }
}

// Nothing to do is no error and writes nothing.
TEST(Edges, NothingToDo) {
  CaseSpec no_requests = {.name = "no_requests", .batch = 0, .s_q = 3, .s_k = 4, .h_q = 2, .h_k = 2, .d = 16};
  EXPECT_EQ(check_case(no_requests, 1), "");
  CaseSpec no_rows = {.name = "no_rows", .batch = 2, .s_q = 0, .s_k = 4, .h_q = 2, .h_k = 2, .d = 16};
  EXPECT_EQ(check_case(no_rows, 1), "");
  CaseSpec no_keys = {.name = "no_keys", .batch = 2, .s_q = 3, .s_k = 0, .h_q = 2, .h_k = 2, .d = 16};
  EXPECT_EQ(check_case(no_keys, 1), "");
  no_keys.sink = true;
  EXPECT_EQ(check_case(no_keys, 1), "");
  CaseSpec all_empty = {.name = "all_empty",
                        .batch = 2,
                        .s_q = 3,
                        .s_k = 3,
                        .h_q = 2,
                        .h_k = 2,
                        .d = 16,
                        .lengths_q = {0, 0},
                        .lengths_k = {0, 0},
                        .query_layout = QueryLayout::packed,
                        .key_layout = KeyLayout::packed};
  EXPECT_EQ(check_case(all_empty, 1), "");
}

TEST(Edges, PageSizes) {
  for (const int64_t page_size : {1, 2, 3, 5, 16, 17, 64, 100, 256}) {
    for (const Strides strides : {Strides::rows, Strides::heads, Strides::padded}) {
      CaseSpec spec = {.name = "page_sizes",
                       .batch = 3,
                       .s_q = 5,
                       .s_k = 140,
                       .h_q = 4,
                       .h_k = 2,
                       .d = 24,
                       .lengths_k = {140, page_size, 2 * page_size % 141},
                       .key_layout = KeyLayout::paged,
                       .strides = strides,
                       .page_size = page_size,
                       .leftpad = page_size % 2 == 0 ? 11 : 0};
      spec.lengths_k[1] = std::min<int64_t>(page_size, 140);
      ASSERT_EQ(check_case(spec, static_cast<uint64_t>(page_size)), "");
    }
  }
}

// Window limits and offsets far outside any length behave as unbounded or empty.
TEST(Edges, FarLimits) {
  CaseSpec spec = {.name = "far_limits", .batch = 2, .s_q = 9, .s_k = 20, .h_q = 2, .h_k = 2, .d = 16};
  for (const int64_t far : {int64_t{1} << 31, int64_t{1} << 40, std::numeric_limits<int64_t>::max()}) {
    spec.window_left = spec.window_right = far;
    spec.first_keys = far;
    spec.chunk = far;
    EXPECT_EQ(check_case(spec, 1), "");
  }
}

}  // namespace
}  // namespace flash_attn::test
