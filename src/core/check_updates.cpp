// Part of validation: rows appended to the cache, rotary embedding, and the scales of f8 inputs. Valid descriptions of these are
// told from contradictory ones here, whether or not a room serves them.
#include "core/validation.h"

#include "core/tensor_check.h"

namespace flash_attn {
namespace {

Status check_new_rows(const fa_attention_desc& desc, const Problem& problem) {
  const fa_tensor_desc& k_new = desc.k_new;
  const fa_tensor_desc& v_new = desc.v_new;
  FA_TRY(check_dtype("k_new", k_new, {problem.dtype}, "that of k"));
  FA_TRY(check_dtype("v_new", v_new, {problem.dtype}, "that of v"));
  if (k_new.rank == 3) {
    FA_TRY(check_shape("k_new", k_new, {{k_new.shape[0], "total_new"}, {problem.h_k, "h_k"}, {problem.d, "d"}}));
    FA_TRY(check_shape("v_new", v_new, {{k_new.shape[0], "total_new"}, {problem.h_k, "h_k"}, {problem.d_v, "d_v"}}));
  } else {
    FA_TRY(check_shape("k_new", k_new, {{problem.b, "b"}, {k_new.shape[1], "s_new"}, {problem.h_k, "h_k"}, {problem.d, "d"}}));
    FA_TRY(check_shape("v_new", v_new, {{problem.b, "b"}, {k_new.shape[1], "s_new"}, {problem.h_k, "h_k"}, {problem.d_v, "d_v"}}));
  }
  const bool is_packed = k_new.rank == 3;
  if (is_packed == problem.has_input(FA_INPUT_CU_SEQLENS_K_NEW)) return Status();
  return is_packed ? invalid("k_new has rank 3 (packed) but inputs lacks FA_INPUT_CU_SEQLENS_K_NEW")
                   : invalid("inputs has FA_INPUT_CU_SEQLENS_K_NEW but k_new has rank 4; row offsets belong to a packed tensor");
}

Status read_append(const fa_attention_desc& desc, Problem* problem) {
  problem->has_append = problem->has_tensor(TensorId::k_new);
  if (problem->has_append != problem->has_tensor(TensorId::v_new)) {
    return problem->has_append ? invalid("k_new is described but v_new is absent; they go together")
                               : invalid("v_new is described but k_new is absent; they go together");
  }
  if (!problem->has_append) {
    if (!problem->has_input(FA_INPUT_CU_SEQLENS_K_NEW)) return Status();
    return invalid("inputs has FA_INPUT_CU_SEQLENS_K_NEW but k_new is absent");
  }
  if (problem->packed_k) return invalid("k_new is described but k is packed, which has no room to append to");
  if (!problem->has_input(FA_INPUT_SEQUSED_K)) {
    return invalid("k_new is described but inputs lacks FA_INPUT_SEQUSED_K, the rows that the cache already holds");
  }
  return check_new_rows(desc, *problem);
}

Status read_rotary(const fa_attention_desc& desc, Problem* problem) {
  problem->has_rotary = problem->has_tensor(TensorId::rotary_cos);
  if (problem->has_rotary != problem->has_tensor(TensorId::rotary_sin)) {
    return problem->has_rotary ? invalid("rotary_cos is described but rotary_sin is absent; they go together")
                               : invalid("rotary_sin is described but rotary_cos is absent; they go together");
  }
  if (!problem->has_rotary) {
    if (!problem->has_input(FA_INPUT_SEQLENS_ROTARY)) return Status();
    return invalid("inputs has FA_INPUT_SEQLENS_ROTARY but rotary_cos is absent");
  }
  if (!problem->has_append) return invalid("rotary_cos is described but k_new is absent; rotary goes with appended rows");
  const fa_tensor_desc& cosines = desc.rotary_cos;
  FA_TRY(check_dtype("rotary_cos", cosines, {problem->dtype}, "that of q"));
  FA_TRY(check_dtype("rotary_sin", desc.rotary_sin, {problem->dtype}, "that of q"));
  if (cosines.rank != 2) return invalid("rotary_cos.rank is %d but must be 2: [positions, rotary_dim/2]", cosines.rank);
  if (cosines.shape[1] < 1 || cosines.shape[1] > problem->d / 2) {
    return invalid("rotary_cos.shape[1] is %lld but must be 1 to %lld, half of the head dim",
                   static_cast<long long>(cosines.shape[1]), static_cast<long long>(problem->d / 2));
  }
  return check_shape("rotary_sin", desc.rotary_sin, {{cosines.shape[0], "positions"}, {cosines.shape[1], "rotary_dim/2"}});
}

Status read_descales(const fa_attention_desc& desc, Problem* problem) {
  for (const TensorId id : {TensorId::q_descale, TensorId::k_descale, TensorId::v_descale}) {
    if (!problem->has_tensor(id)) continue;
    const TensorField& field = kTensorFields[static_cast<int>(id)];
    const fa_tensor_desc& descale = desc.*field.desc;
    problem->has_descale = true;
    if (dtype_bytes(problem->dtype) != 1) {
      return invalid("%s is described but q has dtype %s; descales belong to f8 inputs", field.name, dtype_name(problem->dtype));
    }
    FA_TRY(check_dtype(field.name, descale, {DType::f32}, "f32"));
    FA_TRY(check_shape(field.name, descale, {{problem->b, "b"}, {problem->h_k, "h_k"}}));
  }
  return Status();
}

}  // namespace

Status read_cache_update(const fa_attention_desc& desc, Problem* problem) {
  FA_TRY(read_append(desc, problem));
  FA_TRY(read_rotary(desc, problem));
  return read_descales(desc, problem);
}

}  // namespace flash_attn
