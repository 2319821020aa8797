// A valid description for tests to spoil, and tensors to put into it.
#pragma once

#include "flash_attn/flash_attn.h"

#include <initializer_list>

namespace flash_attn::test {

// Row-major without gaps.
inline fa_tensor_desc compact(fa_dtype dtype, std::initializer_list<int64_t> shape) {
  fa_tensor_desc tensor = {};
  tensor.dtype = dtype;
  tensor.rank = static_cast<int32_t>(shape.size());
  int m = 0;
  for (const int64_t extent : shape) tensor.shape[m++] = extent;
  int64_t stride = 1;
  while (m > 0) {
    --m;
    tensor.stride[m] = stride;
    stride *= tensor.shape[m];
  }
  return tensor;
}

// b 2, s_q 3, s_k 5, h_q 4, h_k 2, d 8, d_v 6, with lse.
inline fa_attention_desc dense_desc() {
  fa_attention_desc desc;
  fa_attention_desc_init(&desc);
  desc.q = compact(FA_DTYPE_F32, {2, 3, 4, 8});
  desc.k = compact(FA_DTYPE_F32, {2, 5, 2, 8});
  desc.v = compact(FA_DTYPE_F32, {2, 5, 2, 6});
  desc.o = compact(FA_DTYPE_F32, {2, 3, 4, 6});
  desc.lse = compact(FA_DTYPE_F32, {2, 4, 3});
  return desc;
}

// The same dims packed: total_q 7, total_k 9.
inline fa_attention_desc packed_desc() {
  fa_attention_desc desc = dense_desc();
  desc.batch = 2;
  desc.inputs = FA_INPUT_CU_SEQLENS_Q | FA_INPUT_CU_SEQLENS_K;
  desc.q = compact(FA_DTYPE_F32, {7, 4, 8});
  desc.k = compact(FA_DTYPE_F32, {9, 2, 8});
  desc.v = compact(FA_DTYPE_F32, {9, 2, 6});
  desc.o = compact(FA_DTYPE_F32, {7, 4, 6});
  desc.lse = compact(FA_DTYPE_F32, {4, 7});
  return desc;
}

// Dense q, 11 pages of 4 rows, 3 pages a request.
inline fa_attention_desc paged_desc() {
  fa_attention_desc desc = dense_desc();
  desc.kv_layout = FA_KV_PAGED;
  desc.k = compact(FA_DTYPE_F32, {11, 4, 2, 8});
  desc.v = compact(FA_DTYPE_F32, {11, 4, 2, 6});
  desc.block_table = compact(FA_DTYPE_I32, {2, 3});
  return desc;
}

// Dense with every gradient.
inline fa_attention_desc backward_desc() {
  fa_attention_desc desc = dense_desc();
  desc.direction = FA_BACKWARD;
  desc.dout = desc.o;
  desc.dq = desc.q;
  desc.dk = desc.k;
  desc.dv = desc.v;
  return desc;
}

// Paged, with rows to append and rotary embedding.
inline fa_attention_desc append_desc() {
  fa_attention_desc desc = paged_desc();
  desc.inputs = FA_INPUT_SEQUSED_K;
  desc.k_new = compact(FA_DTYPE_F32, {2, 3, 2, 8});
  desc.v_new = compact(FA_DTYPE_F32, {2, 3, 2, 6});
  desc.rotary_cos = compact(FA_DTYPE_F32, {20, 4});
  desc.rotary_sin = compact(FA_DTYPE_F32, {20, 4});
  return desc;
}

}  // namespace flash_attn::test
