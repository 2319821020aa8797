// Check of a run's pointers against its problem: each given exactly when described, aligned as promised, and no output overlapping
// anything. Reads no tensor; of a CPU run it reads the arrays of per-request base pointers.
#include "core/problem.h"

#include "core/overlap.h"

#include <cstddef>
#include <cstring>

namespace flash_attn {
namespace {

// What makes a tensor or vector empty, so that its pointer may be NULL.
enum class Emptied { never, by_queries, by_keys, by_requests, by_table, by_scores };

// An element size that the problem determines.
constexpr int kOfInputs = -1;
constexpr int kOfOutput = -2;
constexpr int kOfBias = -3;

struct Pointer {
  const char* name;
  size_t offset;     // in fa_attention_args
  uint32_t tensors;  // given when one of these is described,
  uint32_t inputs;   // or one of these bits is set
  int element_bytes;
  Emptied emptied;
};

constexpr uint32_t bit(TensorId id) { return tensor_bit(id); }

#define FA_ARG(field) #field, offsetof(fa_attention_args, field)
constexpr Pointer kPointers[] = {
    {FA_ARG(q), bit(TensorId::q), 0, kOfInputs, Emptied::by_queries},
    {FA_ARG(k), bit(TensorId::k), 0, kOfInputs, Emptied::by_keys},
    {FA_ARG(v), bit(TensorId::v), 0, kOfInputs, Emptied::by_keys},
    {FA_ARG(o), bit(TensorId::o), 0, kOfOutput, Emptied::by_queries},
    {FA_ARG(lse), bit(TensorId::lse), 0, 4, Emptied::by_queries},
    {FA_ARG(cu_seqlens_q), 0, FA_INPUT_CU_SEQLENS_Q, 4, Emptied::never},
    {FA_ARG(cu_seqlens_k), 0, FA_INPUT_CU_SEQLENS_K, 4, Emptied::never},
    {FA_ARG(seqused_q), 0, FA_INPUT_SEQUSED_Q, 4, Emptied::by_requests},
    {FA_ARG(seqused_k), 0, FA_INPUT_SEQUSED_K, 4, Emptied::by_requests},
    {FA_ARG(leftpad_k), 0, FA_INPUT_LEFTPAD_K, 4, Emptied::by_requests},
    {FA_ARG(cache_batch_idx), 0, FA_INPUT_CACHE_BATCH_IDX, 4, Emptied::by_requests},
    {FA_ARG(block_table), bit(TensorId::block_table), 0, 4, Emptied::by_table},
    {FA_ARG(k_ptrs), 0, 0, 8, Emptied::by_requests},
    {FA_ARG(v_ptrs), 0, 0, 8, Emptied::by_requests},
    {FA_ARG(mask_kinds), 0, 0, 4, Emptied::by_requests},
    {FA_ARG(diagonal_offsets), 0, 0, 4, Emptied::by_requests},
    {FA_ARG(tree_sizes), bit(TensorId::tree_mask), 0, 4, Emptied::by_requests},
    {FA_ARG(alibi), bit(TensorId::alibi), 0, 4, Emptied::by_requests},
    {FA_ARG(bias), bit(TensorId::bias), 0, kOfBias, Emptied::by_scores},
    {FA_ARG(mask), bit(TensorId::mask), 0, 1, Emptied::by_scores},
    {FA_ARG(tree_mask), bit(TensorId::tree_mask), 0, 8, Emptied::by_queries},
    {FA_ARG(sink), bit(TensorId::sink), 0, 4, Emptied::never},
    {FA_ARG(dropout_seed_ptr), 0, FA_INPUT_DROPOUT_POINTERS, 8, Emptied::never},
    {FA_ARG(dropout_offset_ptr), 0, FA_INPUT_DROPOUT_POINTERS, 8, Emptied::never},
    {FA_ARG(k_cache_out), bit(TensorId::k_new), 0, kOfInputs, Emptied::by_keys},
    {FA_ARG(v_cache_out), bit(TensorId::v_new), 0, kOfInputs, Emptied::by_keys},
    {FA_ARG(k_new), bit(TensorId::k_new), 0, kOfInputs, Emptied::by_requests},
    {FA_ARG(v_new), bit(TensorId::v_new), 0, kOfInputs, Emptied::by_requests},
    {FA_ARG(cu_seqlens_k_new), 0, FA_INPUT_CU_SEQLENS_K_NEW, 4, Emptied::never},
    {FA_ARG(seqlens_rotary), 0, FA_INPUT_SEQLENS_ROTARY, 4, Emptied::by_requests},
    {FA_ARG(rotary_cos), bit(TensorId::rotary_cos), 0, kOfInputs, Emptied::never},
    {FA_ARG(rotary_sin), bit(TensorId::rotary_sin), 0, kOfInputs, Emptied::never},
    {FA_ARG(q_descale), bit(TensorId::q_descale), 0, 4, Emptied::by_requests},
    {FA_ARG(k_descale), bit(TensorId::k_descale), 0, 4, Emptied::by_requests},
    {FA_ARG(v_descale), bit(TensorId::v_descale), 0, 4, Emptied::by_requests},
    {FA_ARG(dout), bit(TensorId::dout), 0, kOfOutput, Emptied::by_queries},
    {FA_ARG(dq), bit(TensorId::dq), 0, kOfInputs, Emptied::by_queries},
    {FA_ARG(dk), bit(TensorId::dk), 0, kOfInputs, Emptied::by_keys},
    {FA_ARG(dv), bit(TensorId::dv), 0, kOfInputs, Emptied::by_keys},
    {FA_ARG(dlse), bit(TensorId::dlse), 0, 4, Emptied::by_queries},
    {FA_ARG(dbias), bit(TensorId::dbias), 0, 4, Emptied::by_scores},
    {FA_ARG(dsink), bit(TensorId::dsink), 0, 4, Emptied::never},
    {FA_ARG(dslopes), bit(TensorId::dslopes), 0, 4, Emptied::by_requests},
};
#undef FA_ARG

const void* pointer_of(const fa_attention_args& args, const Pointer& pointer) {
  const void* value = nullptr;
  std::memcpy(&value, reinterpret_cast<const char*>(&args) + pointer.offset, sizeof value);
  return value;
}

bool is_needed(const Problem& problem, const Pointer& pointer) {
  switch (pointer.offset) {
    case offsetof(fa_attention_args, k):
    case offsetof(fa_attention_args, v):
      return problem.kv_layout != KvLayout::pointers;
    case offsetof(fa_attention_args, k_ptrs):
    case offsetof(fa_attention_args, v_ptrs):
      return problem.kv_layout == KvLayout::pointers;
    case offsetof(fa_attention_args, mask_kinds):
      return problem.mask_kind == MaskKind::per_request;
    case offsetof(fa_attention_args, diagonal_offsets):
      return problem.diagonal == Diagonal::offset_per_request;
    default:
      return (problem.tensors & pointer.tensors) != 0 || (problem.inputs & pointer.inputs) != 0;
  }
}

bool is_empty(const Problem& problem, Emptied emptied) {
  switch (emptied) {
    case Emptied::never:
      return false;
    case Emptied::by_queries:
      return problem.total_q == 0;
    case Emptied::by_keys:
      return problem.k_batch == 0 || problem.k_rows == 0;
    case Emptied::by_requests:
      return problem.b == 0;
    case Emptied::by_table:
      return problem.b == 0 || problem.max_pages == 0;
    case Emptied::by_scores:
      return problem.total_q == 0 || problem.max_s_k == 0;
  }
  return false;
}

int64_t alignment_of(const Problem& problem, const Pointer& pointer) {
  switch (pointer.offset) {
    case offsetof(fa_attention_args, q):
      return problem.q_alignment;
    case offsetof(fa_attention_args, k):
      return problem.k_alignment;
    case offsetof(fa_attention_args, v):
      return problem.v_alignment;
    case offsetof(fa_attention_args, o):
      return problem.o_alignment;
    default:
      break;
  }
  switch (pointer.element_bytes) {
    case kOfInputs:
      return dtype_bytes(problem.dtype);
    case kOfOutput:
      return dtype_bytes(problem.o_dtype);
    case kOfBias:
      return dtype_bytes(problem.bias_dtype);
    default:
      return pointer.element_bytes;
  }
}

Status check_aligned(const char* name, const void* address, int64_t alignment) {
  if ((reinterpret_cast<uintptr_t>(address) & static_cast<uintptr_t>(alignment - 1)) == 0) return Status();
  return invalid("%s is %p but must be a multiple of %lld bytes, as described", name, address, static_cast<long long>(alignment));
}

Status check_pointers(const Problem& problem, const fa_attention_args& args) {
  for (const Pointer& pointer : kPointers) {
    const void* address = pointer_of(args, pointer);
    const bool needed = is_needed(problem, pointer);
    if (address == nullptr) {
      if (!needed || is_empty(problem, pointer.emptied)) continue;
      return invalid("%s is NULL but the description needs it", pointer.name);
    }
    if (!needed) return invalid("%s is %p but must be NULL: the description does not have it", pointer.name, address);
    FA_TRY(check_aligned(pointer.name, address, alignment_of(problem, pointer)));
  }
  return Status();
}

Region region_of(const void* base, int64_t element_bytes, int64_t columns, const int64_t (&extents)[3],
                 const int64_t (&strides)[3]) {
  Region region;
  region.base = reinterpret_cast<uintptr_t>(base);
  region.block_bytes = columns * element_bytes;
  for (int m = 0; m < Region::kAxes; ++m) {
    region.extent[m] = extents[m];
    region.stride_bytes[m] = strides[m] * element_bytes;
    if (extents[m] == 0) return Region();
  }
  return region;
}

Region flat(const void* base, int64_t element_bytes, int64_t count) {
  return region_of(base, element_bytes, count, {1, 1, 1}, {0, 0, 0});
}

Region query_region(const Problem& problem, const void* base, const Axes& axes, DType dtype, int64_t columns) {
  return region_of(base, dtype_bytes(dtype), columns,
                   {problem.packed_q ? 1 : problem.b, problem.packed_q ? problem.total_q : problem.max_s_q, problem.h_q},
                   {axes.batch, axes.row, axes.head});
}

Region key_region(const Problem& problem, const void* base, const Axes& axes, int64_t columns) {
  const int64_t batch = problem.kv_layout == KvLayout::pointers ? 1 : problem.k_batch;
  return region_of(base, dtype_bytes(problem.dtype), columns, {batch, problem.k_rows, problem.h_k},
                   {axes.batch, axes.row, axes.head});
}

Region lse_region(const Problem& problem, const void* base) {
  return region_of(base, 4, problem.packed_q ? problem.total_q : problem.max_s_q,
                   {problem.packed_q ? 1 : problem.b, problem.h_q, 1}, {problem.lse.batch, problem.lse.head, 0});
}

// Broadcast dimensions have stride 0 and so add nothing.
Region score_region(const Problem& problem, const void* base, const BiasAxes& axes, int64_t element_bytes) {
  return region_of(base, element_bytes, axes.key == 0 ? 1 : problem.max_s_k,
                   {problem.packed_q ? 1 : problem.b, problem.h_q, problem.packed_q ? problem.total_q : problem.max_s_q},
                   {axes.batch, axes.head, axes.row});
}

Region tree_region(const Problem& problem, const void* base) {
  return region_of(base, 8, problem.tree_words,
                   {problem.packed_q ? 1 : problem.b, problem.packed_q ? problem.total_q : problem.max_s_q, 1},
                   {problem.tree_batch_stride, problem.tree_row_stride, 0});
}

// The outputs of a forward run, and the question put to each input.
class Outputs {
 public:
  Outputs(const Problem& problem, const fa_attention_args& args)
      : o_(query_region(problem, args.o, problem.o, problem.o_dtype, problem.d_v)) {
    if (args.lse != nullptr) lse_ = lse_region(problem, args.lse);
  }

  Status check_apart() const {
    if (!overlaps(o_, lse_)) return Status();
    return invalid("o (%p) and lse (%p) overlap but must be apart", address(o_), address(lse_));
  }

  Status check_apart_from(const char* name, const Region& input) const {
    if (input.base == 0) return Status();
    if (overlaps(o_, input)) return overlap("o", o_, name, input);
    if (overlaps(lse_, input)) return overlap("lse", lse_, name, input);
    return Status();
  }

 private:
  static const void* address(const Region& region) { return reinterpret_cast<const void*>(region.base); }
  static Status overlap(const char* output_name, const Region& output, const char* name, const Region& input) {
    return invalid("%s (%p) overlaps %s (%p) but an output must share no memory with an input", output_name, address(output), name,
                   address(input));
  }

  Region o_;
  Region lse_;
};

Status check_vectors(const Problem& problem, const fa_attention_args& args, const Outputs& outputs) {
  const struct {
    const char* name;
    const int32_t* base;
    int64_t count;
  } vectors[] = {
      {"cu_seqlens_q", args.cu_seqlens_q, problem.b + 1}, {"cu_seqlens_k", args.cu_seqlens_k, problem.b + 1},
      {"seqused_q", args.seqused_q, problem.b},           {"seqused_k", args.seqused_k, problem.b},
      {"leftpad_k", args.leftpad_k, problem.b},           {"cache_batch_idx", args.cache_batch_idx, problem.b},
      {"mask_kinds", args.mask_kinds, problem.b},         {"diagonal_offsets", args.diagonal_offsets, problem.b},
      {"tree_sizes", args.tree_sizes, problem.b},
  };
  for (const auto& vector : vectors) {
    if (vector.base != nullptr) FA_TRY(outputs.check_apart_from(vector.name, flat(vector.base, 4, vector.count)));
  }
  if (args.block_table != nullptr) {
    const Region table = region_of(args.block_table, 4, problem.max_pages, {problem.b, 1, 1}, {problem.block_table_stride, 0, 0});
    FA_TRY(outputs.check_apart_from("block_table", table));
  }
  return Status();
}

Status check_score_inputs(const Problem& problem, const fa_attention_args& args, const Outputs& outputs) {
  if (problem.has_alibi) {
    const Region alibi = region_of(args.alibi, 4, problem.h_q, {problem.b, 1, 1}, {problem.alibi_batch_stride, 0, 0});
    FA_TRY(outputs.check_apart_from("alibi", alibi));
  }
  if (problem.has_bias) {
    const Region bias = score_region(problem, args.bias, problem.bias, dtype_bytes(problem.bias_dtype));
    FA_TRY(outputs.check_apart_from("bias", bias));
  }
  if (problem.has_mask) FA_TRY(outputs.check_apart_from("mask", score_region(problem, args.mask, problem.mask, 1)));
  if (problem.has_tree_mask) FA_TRY(outputs.check_apart_from("tree_mask", tree_region(problem, args.tree_mask)));
  if (problem.has_sink) FA_TRY(outputs.check_apart_from("sink", flat(args.sink, 4, problem.h_q)));
  return Status();
}

// Bases of each request's keys. A request without keys needs none.
Status check_request_pointers(const Problem& problem, const fa_attention_args& args, const Outputs& outputs) {
  if (problem.k_rows == 0) return Status();
  for (int64_t r = 0; r < problem.b; ++r) {
    if (args.seqused_k != nullptr && args.seqused_k[r] == 0) continue;
    for (const bool is_k : {true, false}) {
      const char* list = is_k ? "k_ptrs" : "v_ptrs";
      const void* base = is_k ? args.k_ptrs[r] : args.v_ptrs[r];
      const int64_t alignment = is_k ? problem.k_alignment : problem.v_alignment;
      if (base == nullptr)
        return invalid("%s[%lld] is NULL but request %lld has keys", list, static_cast<long long>(r), static_cast<long long>(r));
      if ((reinterpret_cast<uintptr_t>(base) & static_cast<uintptr_t>(alignment - 1)) != 0) {
        return invalid("%s[%lld] is %p but must be a multiple of %lld bytes, as described", list, static_cast<long long>(r), base,
                       static_cast<long long>(alignment));
      }
      FA_TRY(
          outputs.check_apart_from(list, key_region(problem, base, is_k ? problem.k : problem.v, is_k ? problem.d : problem.d_v)));
    }
  }
  return Status();
}

}  // namespace

Status check_args(const Problem& problem, const fa_attention_args& args) {
  if (args.reserved != 0) return invalid("args.reserved is %u but must be 0", args.reserved);
  FA_TRY(check_pointers(problem, args));
  if (problem.direction == Direction::backward) return Status();  // no room runs one yet; a Problem has no gradient strides
  const Outputs outputs(problem, args);
  FA_TRY(outputs.check_apart());
  FA_TRY(outputs.check_apart_from("q", query_region(problem, args.q, problem.q, problem.dtype, problem.d)));
  if (problem.kv_layout != KvLayout::pointers) {
    FA_TRY(outputs.check_apart_from("k", key_region(problem, args.k, problem.k, problem.d)));
    FA_TRY(outputs.check_apart_from("v", key_region(problem, args.v, problem.v, problem.d_v)));
  } else if (problem.device_type == FA_DEVICE_CPU) {
    FA_TRY(check_request_pointers(problem, args, outputs));
  }
  FA_TRY(check_vectors(problem, args, outputs));
  return check_score_inputs(problem, args, outputs);
}

}  // namespace flash_attn
