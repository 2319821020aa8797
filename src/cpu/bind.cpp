// A run's pointers and a problem's strides, put together for the kernels.

#include "cpu/bind.h"

#include <algorithm>

namespace flash_attn::cpu {

ForwardParams bind_forward(const Problem& p, const fa_attention_args& args) {
  ForwardParams to;
  to.dtype = p.dtype;
  to.o_dtype = p.o_dtype;
  to.group = p.group;
  to.d = p.d;
  to.d_v = p.d_v;
  to.q = static_cast<const char*>(args.q);
  to.k = static_cast<const char*>(args.k);
  to.v = static_cast<const char*>(args.v);
  to.o = static_cast<char*>(args.o);
  to.lse = args.lse;
  to.q_axes = p.q;
  to.k_axes = p.k;
  to.v_axes = p.v;
  to.o_axes = p.o;
  to.lse_axes = p.lse;
  to.kv_source = static_cast<KvSource>(p.kv_layout);
  to.k_ptrs = args.k_ptrs;
  to.v_ptrs = args.v_ptrs;
  to.block_table = args.block_table;
  to.block_table_stride = p.block_table_stride;
  to.page_size = std::max<int64_t>(p.page_size, 1);
  to.scale = p.scale;
  to.softcap = p.softcap;
  to.alibi = args.alibi;
  to.alibi_batch_stride = p.alibi_batch_stride;
  to.bias = static_cast<const char*>(args.bias);
  to.bias_dtype = p.bias_dtype;
  to.bias_axes = p.bias;
  to.mask = args.mask;
  to.mask_axes = p.mask;
  to.tree = args.tree_mask;
  to.tree_batch_stride = p.tree_batch_stride;
  to.tree_row_stride = p.tree_row_stride;
  to.sink = args.sink;
  if (p.dropout_p > 0) {
    const bool by_pointer = p.has_input(FA_INPUT_DROPOUT_POINTERS);
    to.dropout_threshold = dropout_threshold(p.dropout_p);
    to.dropout = dropout_key(by_pointer ? *args.dropout_seed_ptr : args.dropout_seed,
                             by_pointer ? *args.dropout_offset_ptr : args.dropout_offset);
    to.keep_scale = 1.0f / (1.0f - p.dropout_p);
  }
  return to;
}

BackwardParams bind_backward(const Problem& p, const fa_attention_args& args) {
  BackwardParams to;
  static_cast<ForwardParams&>(to) = bind_forward(p, args);
  to.dout = static_cast<const char*>(args.dout);
  to.dlse = args.dlse;
  to.dout_axes = p.dout;
  to.dlse_axes = p.dlse;
  to.dq = static_cast<char*>(args.dq);
  to.dk = static_cast<char*>(args.dk);
  to.dv = static_cast<char*>(args.dv);
  to.dq_dtype = p.dq_dtype;
  to.dk_dtype = p.dk_dtype;
  to.dv_dtype = p.dv_dtype;
  to.dq_axes = p.dq;
  to.dk_axes = p.dk;
  to.dv_axes = p.dv;
  to.adds_dq = p.accumulates_dq;
  to.adds_dk = p.accumulates_dk;
  to.adds_dv = p.accumulates_dv;
  to.dbias = args.dbias;
  to.dbias_axes = p.dbias;
  return to;
}

}  // namespace flash_attn::cpu
