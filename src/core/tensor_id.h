// The tensors of a description as a numbered list, so that rules for all of them are loops over a table and a set of them is a
// word.
#pragma once

#include "flash_attn/flash_attn.h"

#include <cstdint>

namespace flash_attn {

// In the order of fa_attention_desc.
// clang-format off
enum class TensorId : int {
  q, k, v, o, lse,
  block_table, alibi, bias, mask, tree_mask, sink,
  k_new, v_new, rotary_cos, rotary_sin, q_descale, k_descale, v_descale,
  dout, dq, dk, dv, dlse, dbias, dsink, dslopes
};
// clang-format on
inline constexpr int kTensorCount = 26;

constexpr uint32_t tensor_bit(TensorId id) { return 1u << static_cast<int>(id); }

struct TensorField {
  const char* name;
  fa_tensor_desc fa_attention_desc::*desc;
};

// Indexed by TensorId.
extern const TensorField kTensorFields[kTensorCount];

}  // namespace flash_attn
