// Last part of validation: the tensors of a backward pass, each against the forward tensor it belongs to.
#include "core/validation.h"

#include "core/tensor_check.h"

namespace flash_attn {
namespace {

// A gradient has the shape of its tensor; the text names both.
Status check_same_shape(const char* name, const fa_tensor_desc& gradient, const char* of_name, const fa_tensor_desc& of) {
  if (gradient.rank != of.rank) return invalid("%s.rank is %d but must be %d, that of %s", name, gradient.rank, of.rank, of_name);
  for (int m = 0; m < of.rank; ++m) {
    if (gradient.shape[m] == of.shape[m]) continue;
    return invalid("%s.shape[%d] is %lld but must be %lld, as %s's", name, m, static_cast<long long>(gradient.shape[m]),
                   static_cast<long long>(of.shape[m]), of_name);
  }
  return Status();
}

struct Gradient {
  TensorId id;
  TensorId of;
  bool is_output;
};

constexpr Gradient kGradients[] = {
    {TensorId::dout, TensorId::o, false},    {TensorId::dlse, TensorId::lse, false},     {TensorId::dq, TensorId::q, true},
    {TensorId::dk, TensorId::k, true},       {TensorId::dv, TensorId::v, true},          {TensorId::dbias, TensorId::bias, true},
    {TensorId::dsink, TensorId::sink, true}, {TensorId::dslopes, TensorId::alibi, true},
};

// dout and the gradients of q, k, v may be kept in their tensor's type or in f32; all others are f32.
Status check_gradient_dtype(const Gradient& gradient, const char* name, const fa_tensor_desc& tensor, const fa_tensor_desc& of) {
  switch (gradient.id) {
    case TensorId::dout:
      return check_dtype(name, tensor, {static_cast<DType>(of.dtype)}, "that of o");
    case TensorId::dq:
    case TensorId::dk:
    case TensorId::dv:
      return check_dtype(name, tensor, {static_cast<DType>(of.dtype), DType::f32}, "that of q or f32");
    default:
      return check_dtype(name, tensor, {DType::f32}, "f32");
  }
}

}  // namespace

Status read_gradients(const fa_attention_desc& desc, Problem* problem) {
  if (problem->direction == Direction::forward) return Status();
  for (const Gradient& gradient : kGradients) {
    if (!problem->has_tensor(gradient.id)) continue;
    const TensorField& field = kTensorFields[static_cast<int>(gradient.id)];
    const TensorField& of_field = kTensorFields[static_cast<int>(gradient.of)];
    if (!problem->has_tensor(gradient.of)) return invalid("%s is described but %s is absent", field.name, of_field.name);
    const fa_tensor_desc& tensor = desc.*field.desc;
    const fa_tensor_desc& of = desc.*of_field.desc;
    FA_TRY(check_gradient_dtype(gradient, field.name, tensor, of));
    FA_TRY(check_same_shape(field.name, tensor, of_field.name, of));
    if (gradient.is_output) FA_TRY(check_no_self_overlap(field.name, tensor));
  }
  return Status();
}

}  // namespace flash_attn
