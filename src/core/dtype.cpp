// Sizes and names of element types, and the table of the tensors of a description.
#include "core/problem.h"
#include "core/tensor_id.h"

namespace flash_attn {

const TensorField kTensorFields[kTensorCount] = {
    {"q", &fa_attention_desc::q},
    {"k", &fa_attention_desc::k},
    {"v", &fa_attention_desc::v},
    {"o", &fa_attention_desc::o},
    {"lse", &fa_attention_desc::lse},
    {"block_table", &fa_attention_desc::block_table},
    {"alibi", &fa_attention_desc::alibi},
    {"bias", &fa_attention_desc::bias},
    {"mask", &fa_attention_desc::mask},
    {"tree_mask", &fa_attention_desc::tree_mask},
    {"sink", &fa_attention_desc::sink},
    {"k_new", &fa_attention_desc::k_new},
    {"v_new", &fa_attention_desc::v_new},
    {"rotary_cos", &fa_attention_desc::rotary_cos},
    {"rotary_sin", &fa_attention_desc::rotary_sin},
    {"q_descale", &fa_attention_desc::q_descale},
    {"k_descale", &fa_attention_desc::k_descale},
    {"v_descale", &fa_attention_desc::v_descale},
    {"dout", &fa_attention_desc::dout},
    {"dq", &fa_attention_desc::dq},
    {"dk", &fa_attention_desc::dk},
    {"dv", &fa_attention_desc::dv},
    {"dlse", &fa_attention_desc::dlse},
    {"dbias", &fa_attention_desc::dbias},
    {"dsink", &fa_attention_desc::dsink},
    {"dslopes", &fa_attention_desc::dslopes},
};

static_assert(static_cast<int>(TensorId::dslopes) + 1 == kTensorCount);
static_assert(static_cast<int>(DType::f32) == FA_DTYPE_F32 && static_cast<int>(DType::f16) == FA_DTYPE_F16 &&
              static_cast<int>(DType::bf16) == FA_DTYPE_BF16 && static_cast<int>(DType::f8e4m3) == FA_DTYPE_F8E4M3 &&
              static_cast<int>(DType::f8e5m2) == FA_DTYPE_F8E5M2 && static_cast<int>(DType::i32) == FA_DTYPE_I32 &&
              static_cast<int>(DType::u64) == FA_DTYPE_U64 && static_cast<int>(DType::boolean) == FA_DTYPE_BOOL);

int64_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::none:
      return 0;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::f8e4m3:
    case DType::f8e5m2:
    case DType::boolean:
      return 1;
    case DType::u64:
      return 8;
  }
  return 0;
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::none:
      return "none";
    case DType::f32:
      return "f32";
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
    case DType::f8e4m3:
      return "f8e4m3";
    case DType::f8e5m2:
      return "f8e5m2";
    case DType::i32:
      return "i32";
    case DType::u64:
      return "u64";
    case DType::boolean:
      return "bool";
  }
  return "unknown";
}

}  // namespace flash_attn
