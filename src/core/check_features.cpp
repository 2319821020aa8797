// Part of validation: the tensors and numbers that change scores. ALiBi, bias, boolean and tree masks, the sink.
#include "core/validation.h"

#include "core/tensor_check.h"

namespace flash_attn {
namespace {

Status read_alibi(const fa_attention_desc& desc, Problem* problem) {
  problem->has_alibi = problem->has_tensor(TensorId::alibi);
  if (!problem->has_alibi) return Status();
  const fa_tensor_desc& alibi = desc.alibi;
  FA_TRY(check_dtype("alibi", alibi, {DType::f32}, "f32"));
  if (alibi.rank == 1) return check_shape("alibi", alibi, {{problem->h_q, "h_q"}});
  if (alibi.rank != 2) return invalid("alibi.rank is %d but must be 1, [h_q], or 2, [b, h_q]", alibi.rank);
  FA_TRY(check_shape("alibi", alibi, {{problem->b, "b"}, {problem->h_q, "h_q"}}));
  problem->alibi_batch_stride = alibi.stride[0];
  return Status();
}

// Width of a packed bias: what requests can have, or the larger number that the caller declared.
int64_t packed_width(const fa_attention_desc& desc, const fa_tensor_desc& tensor, const Problem& problem) {
  const bool is_declared = desc.max_s_k > problem.max_s_k && tensor.shape[2] == desc.max_s_k;
  return is_declared ? desc.max_s_k : problem.max_s_k;
}

// A bias or boolean mask: shape with broadcasting, to strides with 0 where it broadcasts.
Status read_score_tensor(const char* name, const fa_attention_desc& desc, const fa_tensor_desc& tensor, const Problem& problem,
                         BiasAxes* axes) {
  if (problem.packed_q) {
    FA_TRY(check_shape(
        name, tensor,
        {{problem.h_q, "h_q", true}, {problem.total_q, "total_q", true}, {packed_width(desc, tensor, problem), "max_s_k"}}));
    axes->head = tensor.shape[0] == 1 ? 0 : tensor.stride[0];
    axes->row = tensor.shape[1] == 1 ? 0 : tensor.stride[1];
    axes->key = 1;
    return Status();
  }
  FA_TRY(check_shape(
      name, tensor,
      {{problem.b, "b", true}, {problem.h_q, "h_q", true}, {problem.max_s_q, "s_q", true}, {problem.max_s_k, "s_k", true}}));
  axes->batch = tensor.shape[0] == 1 ? 0 : tensor.stride[0];
  axes->head = tensor.shape[1] == 1 ? 0 : tensor.stride[1];
  axes->row = tensor.shape[2] == 1 ? 0 : tensor.stride[2];
  axes->key = tensor.shape[3] == 1 ? 0 : 1;
  return Status();
}

Status read_tree_mask(const fa_attention_desc& desc, Problem* problem) {
  problem->has_tree_mask = problem->has_tensor(TensorId::tree_mask);
  if (!problem->has_tree_mask) {
    if (problem->mask_kind != MaskKind::tree) return Status();
    return invalid("tree_mask is absent but mask_kind is FA_MASK_TREE, which needs it");
  }
  if (problem->mask_kind != MaskKind::tree && problem->mask_kind != MaskKind::per_request) {
    return invalid("tree_mask is described but mask_kind is %s; it must be FA_MASK_TREE or FA_MASK_PER_REQUEST",
                   problem->mask_kind == MaskKind::causal ? "FA_MASK_CAUSAL" : "FA_MASK_FULL");
  }
  const fa_tensor_desc& tree = desc.tree_mask;
  FA_TRY(check_dtype("tree_mask", tree, {DType::u64}, "u64"));
  const int64_t words = tree.shape[tree.rank - 1];
  if (problem->packed_q) {
    FA_TRY(check_shape("tree_mask", tree, {{problem->total_q, "total_q"}, {words, "words"}}));
    problem->tree_row_stride = tree.stride[0];
  } else {
    FA_TRY(check_shape("tree_mask", tree, {{problem->b, "b"}, {problem->max_s_q, "s_q"}, {words, "words"}}));
    problem->tree_batch_stride = tree.stride[0];
    problem->tree_row_stride = tree.stride[1];
  }
  FA_TRY(check_extent("tree_mask", tree, tree.rank - 1, 1, kMaxExtent / 64, "words of a row"));
  problem->tree_words = words;
  return Status();
}

}  // namespace

Status read_features(const fa_attention_desc& desc, Problem* problem) {
  FA_TRY(read_alibi(desc, problem));
  problem->has_bias = problem->has_tensor(TensorId::bias);
  if (problem->has_bias) {
    FA_TRY(check_dtype("bias", desc.bias, {DType::f32, problem->dtype}, "f32 or that of q"));
    FA_TRY(read_score_tensor("bias", desc, desc.bias, *problem, &problem->bias));
    problem->bias_dtype = static_cast<DType>(desc.bias.dtype);
  }
  problem->has_mask = problem->has_tensor(TensorId::mask);
  if (problem->has_mask) {
    FA_TRY(check_dtype("mask", desc.mask, {DType::boolean}, "bool"));
    FA_TRY(read_score_tensor("mask", desc, desc.mask, *problem, &problem->mask));
  }
  FA_TRY(read_tree_mask(desc, problem));
  problem->has_sink = problem->has_tensor(TensorId::sink);
  if (!problem->has_sink) return Status();
  FA_TRY(check_dtype("sink", desc.sink, {DType::f32}, "f32"));
  return check_shape("sink", desc.sink, {{problem->h_q, "h_q"}});
}

}  // namespace flash_attn
