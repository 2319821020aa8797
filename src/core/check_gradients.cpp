// Last part of validation: what a backward cannot take, and its tensors, each against the forward tensor it belongs to.
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

// What only a forward has. Where keys may be shared between requests, a gradient would have no place of its own.
Status check_backward_options(const fa_attention_desc& desc, const Problem& problem) {
  if (problem.kv_layout != KvLayout::contiguous) {
    return invalid("kv_layout is %s but FA_BACKWARD needs FA_KV_CONTIGUOUS",
                   problem.kv_layout == KvLayout::paged ? "FA_KV_PAGED" : "FA_KV_POINTERS");
  }
  if (problem.has_input(FA_INPUT_CACHE_BATCH_IDX)) {
    return invalid("inputs has FA_INPUT_CACHE_BATCH_IDX but direction is FA_BACKWARD, where each request has its own keys");
  }
  if (desc.num_splits != 0) return invalid("num_splits is %d but must be 0 in FA_BACKWARD", desc.num_splits);
  if (desc.split_size == 0) return Status();
  return invalid("split_size is %lld but must be 0 in FA_BACKWARD", static_cast<long long>(desc.split_size));
}

Status check_gradient(const fa_attention_desc& desc, const Problem& problem, const Gradient& gradient) {
  const TensorField& field = kTensorFields[static_cast<int>(gradient.id)];
  const TensorField& of_field = kTensorFields[static_cast<int>(gradient.of)];
  if (!problem.has_tensor(gradient.of)) return invalid("%s is described but %s is absent", field.name, of_field.name);
  const fa_tensor_desc& tensor = desc.*field.desc;
  const fa_tensor_desc& of = desc.*of_field.desc;
  FA_TRY(check_gradient_dtype(gradient, field.name, tensor, of));
  FA_TRY(check_same_shape(field.name, tensor, of_field.name, of));
  return gradient.is_output ? check_no_self_overlap(field.name, tensor) : Status();
}

void read_required(const fa_attention_desc& desc, Problem* problem) {
  problem->dout = axes_of(desc.dout);
  problem->dq = axes_of(desc.dq);
  problem->dk = axes_of(desc.dk);
  problem->dv = axes_of(desc.dv);
  problem->dq_dtype = static_cast<DType>(desc.dq.dtype);
  problem->dk_dtype = static_cast<DType>(desc.dk.dtype);
  problem->dv_dtype = static_cast<DType>(desc.dv.dtype);
  problem->dout_alignment = alignment_of(desc.dout, desc.device_type);
  problem->dq_alignment = alignment_of(desc.dq, desc.device_type);
  problem->dk_alignment = alignment_of(desc.dk, desc.device_type);
  problem->dv_alignment = alignment_of(desc.dv, desc.device_type);
  problem->accumulates_dq = problem->has_flag(FA_FLAG_ACCUMULATE_DQ);
  problem->accumulates_dk = problem->has_flag(FA_FLAG_ACCUMULATE_DK);
  problem->accumulates_dv = problem->has_flag(FA_FLAG_ACCUMULATE_DV);
}

void read_dbias(const fa_tensor_desc& dbias, Problem* problem) {
  const int first = problem->packed_q ? 0 : 1;  // dimension of the heads
  problem->dbias_batches = problem->packed_q ? 1 : dbias.shape[0];
  problem->dbias_heads = dbias.shape[first];
  problem->dbias_rows = dbias.shape[first + 1];
  problem->dbias_columns = dbias.shape[first + 2];
  problem->dbias.batch = problem->dbias_batches == 1 ? 0 : dbias.stride[0];
  problem->dbias.head = problem->dbias_heads == 1 ? 0 : dbias.stride[first];
  problem->dbias.row = problem->dbias_rows == 1 ? 0 : dbias.stride[first + 1];
  problem->dbias.key = !problem->packed_q && problem->dbias_columns == 1 ? 0 : 1;
}

void read_optional(const fa_attention_desc& desc, Problem* problem) {
  problem->has_dlse = problem->has_tensor(TensorId::dlse);
  if (problem->has_dlse) {
    problem->dlse = problem->packed_q ? Axes{0, 1, desc.dlse.stride[0]} : Axes{desc.dlse.stride[0], 1, desc.dlse.stride[1]};
  }
  problem->has_dbias = problem->has_tensor(TensorId::dbias);
  if (problem->has_dbias) read_dbias(desc.dbias, problem);
  problem->has_dsink = problem->has_tensor(TensorId::dsink);
  problem->has_dslopes = problem->has_tensor(TensorId::dslopes);
  if (!problem->has_dslopes) return;
  problem->dslopes_rows = desc.dslopes.rank == 1 ? 1 : problem->b;
  problem->dslopes_batch_stride = desc.dslopes.rank == 1 ? 0 : desc.dslopes.stride[0];
}

}  // namespace

Status read_gradients(const fa_attention_desc& desc, Problem* problem) {
  if (problem->direction == Direction::forward) return Status();
  FA_TRY(check_backward_options(desc, *problem));
  for (const Gradient& gradient : kGradients)
    if (problem->has_tensor(gradient.id)) FA_TRY(check_gradient(desc, *problem, gradient));
  read_required(desc, problem);
  read_optional(desc, problem);
  return Status();
}

}  // namespace flash_attn
