// The middle of validation: every tensor's form, then dims, layout and lengths of q, k, v, o, lse and the block table.
#include "core/validation.h"

#include "core/tensor_check.h"

#include <algorithm>
#include <cmath>

namespace flash_attn {
namespace {

constexpr uint32_t kRequired =
    tensor_bit(TensorId::q) | tensor_bit(TensorId::k) | tensor_bit(TensorId::v) | tensor_bit(TensorId::o);
constexpr uint32_t kRequiredBackward = tensor_bit(TensorId::lse) | tensor_bit(TensorId::dout) | tensor_bit(TensorId::dq) |
                                       tensor_bit(TensorId::dk) | tensor_bit(TensorId::dv);
constexpr uint32_t kBackwardOnly = tensor_bit(TensorId::dout) | tensor_bit(TensorId::dq) | tensor_bit(TensorId::dk) |
                                   tensor_bit(TensorId::dv) | tensor_bit(TensorId::dlse) | tensor_bit(TensorId::dbias) |
                                   tensor_bit(TensorId::dsink) | tensor_bit(TensorId::dslopes);
constexpr uint32_t kForwardOnly = tensor_bit(TensorId::k_new) | tensor_bit(TensorId::v_new);

const char* first_name(uint32_t tensors) { return kTensorFields[__builtin_ctz(tensors)].name; }

// Three dimensions (packed) or four.
Status check_rank(const char* name, const fa_tensor_desc& tensor, const char* accepted) {
  if (tensor.rank == 3 || tensor.rank == 4) return Status();
  return invalid("%s.rank is %d but must be %s", name, tensor.rank, accepted);
}

// A packed tensor needs its row offsets; another must not have them.
Status check_offsets_bit(const char* name, bool is_packed, const Problem& problem, uint32_t bit, const char* bit_name) {
  if (is_packed == problem.has_input(bit)) return Status();
  if (is_packed) return invalid("%s has rank 3 (packed) but inputs lacks %s", name, bit_name);
  return invalid("inputs has %s but %s has rank 4; row offsets belong to a packed tensor of rank 3", bit_name, name);
}

Status read_batch(const fa_attention_desc& desc, Problem* problem) {
  if (desc.batch < 0 || desc.batch > kMaxCount) {
    return invalid("batch is %lld but must be 0 to %lld", static_cast<long long>(desc.batch), static_cast<long long>(kMaxCount));
  }
  if (desc.max_s_q < 0) return invalid("max_s_q is %lld but must be 0 or more", static_cast<long long>(desc.max_s_q));
  const fa_tensor_desc& q = desc.q;
  if (problem->packed_q) {
    problem->b = desc.batch;
    problem->total_q = q.shape[0];
    if (desc.batch == 0 && problem->total_q > 0) {
      return invalid("batch is 0 but a packed q of %lld rows needs the number of requests",
                     static_cast<long long>(problem->total_q));
    }
    problem->max_s_q = desc.max_s_q == 0 ? problem->total_q : std::min(desc.max_s_q, problem->total_q);
    return Status();
  }
  FA_TRY(check_extent("q", q, 0, 0, kMaxCount, "requests"));
  problem->b = q.shape[0];
  if (desc.batch != 0 && desc.batch != problem->b) {
    return invalid("batch is %lld but q.shape[0] is %lld; they must agree, or batch be 0", static_cast<long long>(desc.batch),
                   static_cast<long long>(problem->b));
  }
  problem->max_s_q = q.shape[1];
  if (desc.max_s_q != 0 && desc.max_s_q != problem->max_s_q) {
    return invalid("max_s_q is %lld but q.shape[1] is %lld; they must agree, or max_s_q be 0", static_cast<long long>(desc.max_s_q),
                   static_cast<long long>(problem->max_s_q));
  }
  if (__builtin_mul_overflow(problem->b, problem->max_s_q, &problem->total_q) || problem->total_q > kMaxSpanBytes) {
    return invalid("q has %lld requests of %lld rows, more than 2^60 rows", static_cast<long long>(problem->b),
                   static_cast<long long>(problem->max_s_q));
  }
  return Status();
}

// max_s_k from what the layout can hold and what the caller declared.
Status read_key_lengths(const fa_attention_desc& desc, Problem* problem) {
  if (desc.max_s_k < 0) return invalid("max_s_k is %lld but must be 0 or more", static_cast<long long>(desc.max_s_k));
  int64_t capacity = problem->k_rows;
  if (problem->kv_layout == KvLayout::paged) {
    capacity = std::min(problem->max_pages * problem->page_size, kMaxExtent);  // both are at most kMaxCount
  } else if (problem->kv_layout == KvLayout::contiguous && !problem->packed_k) {
    if (desc.max_s_k != 0 && desc.max_s_k != capacity) {
      return invalid("max_s_k is %lld but k.shape[1] is %lld; they must agree, or max_s_k be 0",
                     static_cast<long long>(desc.max_s_k), static_cast<long long>(capacity));
    }
  }
  problem->max_s_k = desc.max_s_k == 0 ? capacity : std::min(desc.max_s_k, capacity);
  return Status();
}

Status read_block_table(const fa_attention_desc& desc, Problem* problem) {
  const fa_tensor_desc& table = desc.block_table;
  const bool is_paged = problem->kv_layout == KvLayout::paged;
  if (is_paged != problem->has_tensor(TensorId::block_table)) {
    return is_paged ? invalid("block_table is absent but kv_layout is FA_KV_PAGED, which needs it")
                    : invalid("block_table is described but kv_layout is not FA_KV_PAGED");
  }
  if (!is_paged) return Status();
  FA_TRY(check_dtype("block_table", table, {DType::i32}, "i32"));
  FA_TRY(check_shape("block_table", table, {{problem->b, "b"}, {table.shape[1], "max_pages"}}));
  FA_TRY(check_extent("block_table", table, 1, 0, kMaxCount, "pages of a request"));
  FA_TRY(check_extent("k", desc.k, 1, 1, kMaxCount, "rows of a page"));
  FA_TRY(check_extent("k", desc.k, 0, 0, kMaxCount, "pages"));
  problem->page_size = desc.k.shape[1];
  problem->num_pages = desc.k.shape[0];
  problem->max_pages = table.shape[1];
  problem->block_table_stride = table.stride[0];
  return Status();
}

// How k's first dimension relates to the requests.
Status read_key_layout(const fa_attention_desc& desc, Problem* problem) {
  const fa_tensor_desc& k = desc.k;
  problem->packed_k = k.rank == 3;
  if (problem->packed_k && problem->kv_layout != KvLayout::contiguous) {
    return invalid("k.rank is 3 (packed) but kv_layout is %s, which needs rank 4",
                   problem->kv_layout == KvLayout::paged ? "FA_KV_PAGED" : "FA_KV_POINTERS");
  }
  FA_TRY(check_offsets_bit("k", problem->packed_k, *problem, FA_INPUT_CU_SEQLENS_K, "FA_INPUT_CU_SEQLENS_K"));
  problem->k_batch = problem->packed_k ? 1 : k.shape[0];
  problem->k_rows = problem->packed_k ? k.shape[0] : k.shape[1];
  if (problem->has_input(FA_INPUT_CACHE_BATCH_IDX)) {
    if (problem->packed_k || problem->kv_layout != KvLayout::contiguous) {
      return invalid("inputs has FA_INPUT_CACHE_BATCH_IDX but k is %s; it picks rows of a [b_k, s_k, h_k, d] k",
                     problem->packed_k ? "packed" : (problem->kv_layout == KvLayout::paged ? "paged" : "given by pointers"));
    }
  } else if (!problem->packed_k && problem->kv_layout != KvLayout::paged && problem->k_batch != problem->b) {
    return invalid("k.shape[0] is %lld but must be %lld, the number of requests (or FA_INPUT_CACHE_BATCH_IDX be given)",
                   static_cast<long long>(problem->k_batch), static_cast<long long>(problem->b));
  }
  return read_block_table(desc, problem);
}

}  // namespace

Status read_tensors(const fa_attention_desc& desc, Problem* problem) {
  uint32_t described = 0;
  for (int id = 0; id < kTensorCount; ++id) {
    const TensorField& field = kTensorFields[id];
    const fa_tensor_desc& tensor = desc.*field.desc;
    if (!is_described(tensor)) continue;
    described |= 1u << id;
    const bool has_own_bases = problem->kv_layout == KvLayout::pointers && (&tensor == &desc.k || &tensor == &desc.v);
    FA_TRY(check_form(field.name, tensor, has_own_bases ? 1 : 0));
  }
  const bool is_forward = problem->direction == Direction::forward;
  const uint32_t missing = (is_forward ? kRequired : kRequired | kRequiredBackward) & ~described;
  if (missing != 0) {
    return invalid("%s is absent (its dtype is FA_DTYPE_NONE) but %s needs it", first_name(missing),
                   is_forward ? "every problem" : "FA_BACKWARD");
  }
  const uint32_t extra = described & (is_forward ? kBackwardOnly : kForwardOnly);
  if (extra != 0) {
    return invalid("%s is described but direction is %s", first_name(extra), is_forward ? "FA_FORWARD" : "FA_BACKWARD");
  }
  problem->tensors = described;
  return Status();
}

Status read_query(const fa_attention_desc& desc, Problem* problem) {
  const fa_tensor_desc& q = desc.q;
  FA_TRY(
      check_dtype("q", q, {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2}, "f32, f16, bf16, f8e4m3 or f8e5m2"));
  FA_TRY(check_rank("q", q, "4, [b, s_q, h_q, d], or 3, [total_q, h_q, d]"));
  problem->dtype = static_cast<DType>(q.dtype);
  problem->packed_q = q.rank == 3;
  FA_TRY(check_offsets_bit("q", problem->packed_q, *problem, FA_INPUT_CU_SEQLENS_Q, "FA_INPUT_CU_SEQLENS_Q"));
  FA_TRY(check_extent("q", q, q.rank - 2, 1, kMaxCount, "query heads"));
  FA_TRY(check_extent("q", q, q.rank - 1, 1, kMaxCount, "head dim"));
  problem->h_q = q.shape[q.rank - 2];
  problem->d = q.shape[q.rank - 1];
  if (std::isnan(problem->scale)) problem->scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(problem->d)));
  problem->q = axes_of(q);
  problem->q_alignment = alignment_of(q, desc.device_type);
  return read_batch(desc, problem);
}

Status read_keys(const fa_attention_desc& desc, Problem* problem) {
  const fa_tensor_desc& k = desc.k;
  const fa_tensor_desc& v = desc.v;
  FA_TRY(check_dtype("k", k, {problem->dtype}, "that of q"));
  FA_TRY(check_dtype("v", v, {problem->dtype}, "that of q"));
  FA_TRY(check_rank("k", k, "4, [b, s_k, h_k, d] or [pages, page_size, h_k, d], or 3, [total_k, h_k, d]"));
  FA_TRY(check_extent("k", k, k.rank - 2, 1, kMaxCount, "key heads"));
  problem->h_k = k.shape[k.rank - 2];
  if (problem->h_q % problem->h_k != 0) {
    return invalid("k has %lld heads; q's %lld are no multiple", static_cast<long long>(problem->h_k),
                   static_cast<long long>(problem->h_q));
  }
  problem->group = problem->h_q / problem->h_k;
  if (k.shape[k.rank - 1] != problem->d) {
    return invalid("k.shape[%d] is %lld but must be %lld, the head dim of q", k.rank - 1,
                   static_cast<long long>(k.shape[k.rank - 1]), static_cast<long long>(problem->d));
  }
  if (v.rank != k.rank) return invalid("v.rank is %d but must be %d, that of k", v.rank, k.rank);
  for (int m = 0; m < k.rank - 1; ++m) {
    if (v.shape[m] == k.shape[m]) continue;
    return invalid("v.shape[%d] is %lld but must be %lld, as k's", m, static_cast<long long>(v.shape[m]),
                   static_cast<long long>(k.shape[m]));
  }
  FA_TRY(check_extent("v", v, v.rank - 1, 1, kMaxCount, "head dim of v"));
  problem->d_v = v.shape[v.rank - 1];
  FA_TRY(read_key_layout(desc, problem));
  problem->k = axes_of(k);
  problem->v = axes_of(v);
  if (problem->kv_layout == KvLayout::pointers) problem->k.batch = problem->v.batch = 0;
  problem->k_alignment = alignment_of(k, desc.device_type);
  problem->v_alignment = alignment_of(v, desc.device_type);
  return read_key_lengths(desc, problem);
}

Status read_outputs(const fa_attention_desc& desc, Problem* problem) {
  const fa_tensor_desc& o = desc.o;
  const bool is_forward = problem->direction == Direction::forward;
  FA_TRY(check_dtype("o", o, {DType::f32, DType::f16, DType::bf16}, "f32, f16 or bf16"));
  if (problem->packed_q) {
    FA_TRY(check_shape("o", o, {{problem->total_q, "total_q"}, {problem->h_q, "h_q"}, {problem->d_v, "d_v"}}));
  } else {
    FA_TRY(check_shape("o", o, {{problem->b, "b"}, {problem->max_s_q, "s_q"}, {problem->h_q, "h_q"}, {problem->d_v, "d_v"}}));
  }
  if (is_forward) FA_TRY(check_no_self_overlap("o", o));
  problem->o_dtype = static_cast<DType>(o.dtype);
  problem->o = axes_of(o);
  problem->o_alignment = alignment_of(o, desc.device_type);
  problem->has_lse = problem->has_tensor(TensorId::lse);
  if (!problem->has_lse) return Status();
  const fa_tensor_desc& lse = desc.lse;
  FA_TRY(check_dtype("lse", lse, {DType::f32}, "f32"));
  if (problem->packed_q) {
    FA_TRY(check_shape("lse", lse, {{problem->h_q, "h_q"}, {problem->total_q, "total_q"}}));
    problem->lse = Axes{0, 1, lse.stride[0]};
  } else {
    FA_TRY(check_shape("lse", lse, {{problem->b, "b"}, {problem->h_q, "h_q"}, {problem->max_s_q, "s_q"}}));
    problem->lse = Axes{lse.stride[0], 1, lse.stride[1]};
  }
  return is_forward ? check_no_self_overlap("lse", lse) : Status();
}

}  // namespace flash_attn
