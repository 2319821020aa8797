// Descriptions of attention on a GPU by a few numbers: dense, cached, paged and packed problems of one model. No data.
#pragma once

#include "flash_attn/flash_attn.h"

namespace flash_attn::tool {

struct Shape {
  fa_dtype dtype = FA_DTYPE_BF16;
  int64_t batch = 1, rows = 1, keys = 1;
  int64_t h_q = 1, h_k = 1, d = 64, d_v = 64;
};

constexpr int64_t kPageSize = 16;

fa_attention_desc dense_shape(const Shape& shape);
// Dense rows against a cache of which each request uses a part.
fa_attention_desc cached_shape(const Shape& shape);
// The same, the cache in pages.
fa_attention_desc paged_shape(const Shape& shape);
// Requests of different lengths one after the other; with pages, their rows only.
fa_attention_desc packed_shape(const Shape& shape);
fa_attention_desc packed_paged_shape(const Shape& shape);

}  // namespace flash_attn::tool
