// See shapes.h.
#include "shapes.h"

#include "engine.h"

namespace flash_attn::tool {
namespace {

fa_attention_desc new_gpu_desc() {
  fa_attention_desc desc = new_desc();
  desc.device_type = FA_DEVICE_CUDA;
  return desc;
}

fa_attention_desc pack_rows(const Shape& s) {
  fa_attention_desc desc = new_gpu_desc();
  desc.batch = s.batch;
  desc.inputs = FA_INPUT_CU_SEQLENS_Q;
  desc.max_s_q = s.rows;
  desc.q = dense_tensor(s.dtype, {s.batch * s.rows, s.h_q, s.d});
  desc.o = dense_tensor(s.dtype, {s.batch * s.rows, s.h_q, s.d_v});
  desc.lse = dense_tensor(FA_DTYPE_F32, {s.h_q, s.batch * s.rows});
  return desc;
}

void page(const Shape& s, fa_attention_desc* desc) {
  const int64_t pages = (s.keys + kPageSize - 1) / kPageSize;
  desc->inputs |= FA_INPUT_SEQUSED_K;
  desc->kv_layout = FA_KV_PAGED;
  desc->k = dense_tensor(s.dtype, {s.batch * pages, kPageSize, s.h_k, s.d});
  desc->v = dense_tensor(s.dtype, {s.batch * pages, kPageSize, s.h_k, s.d_v});
  desc->block_table = dense_tensor(FA_DTYPE_I32, {s.batch, pages});
  desc->max_s_k = s.keys;
}

}  // namespace

fa_attention_desc dense_shape(const Shape& s) {
  fa_attention_desc desc = new_gpu_desc();
  desc.q = dense_tensor(s.dtype, {s.batch, s.rows, s.h_q, s.d});
  desc.k = dense_tensor(s.dtype, {s.batch, s.keys, s.h_k, s.d});
  desc.v = dense_tensor(s.dtype, {s.batch, s.keys, s.h_k, s.d_v});
  desc.o = dense_tensor(s.dtype, {s.batch, s.rows, s.h_q, s.d_v});
  desc.lse = dense_tensor(FA_DTYPE_F32, {s.batch, s.h_q, s.rows});
  return desc;
}

fa_attention_desc cached_shape(const Shape& s) {
  fa_attention_desc desc = dense_shape(s);
  desc.inputs |= FA_INPUT_SEQUSED_K;
  return desc;
}

fa_attention_desc paged_shape(const Shape& s) {
  fa_attention_desc desc = dense_shape(s);
  page(s, &desc);
  return desc;
}

fa_attention_desc packed_shape(const Shape& s) {
  fa_attention_desc desc = pack_rows(s);
  desc.k = dense_tensor(s.dtype, {s.batch * s.keys, s.h_k, s.d});
  desc.v = dense_tensor(s.dtype, {s.batch * s.keys, s.h_k, s.d_v});
  desc.inputs |= FA_INPUT_CU_SEQLENS_K;
  desc.max_s_k = s.keys;
  return desc;
}

fa_attention_desc packed_paged_shape(const Shape& s) {
  fa_attention_desc desc = pack_rows(s);
  page(s, &desc);
  return desc;
}

}  // namespace flash_attn::tool
