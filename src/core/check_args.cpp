// Check of a run's pointers against its problem: each given exactly when described, aligned as promised, and then what they share
// (check_apart.h).
#include "core/check_apart.h"
#include "core/problem.h"

#include <cstddef>
#include <cstring>

namespace flash_attn {
namespace {

// What makes a tensor or vector empty, so that its pointer may be NULL.
enum class Emptied : uint8_t { never, by_queries, by_keys, by_requests, by_table, by_scores, by_dbias, by_dslopes };

// Where a pointer's alignment comes from: promised in the description, or the element size.
enum class Alignment : uint8_t { one, four, eight, q, k, v, o, dout, dq, dk, dv, input, bias };
constexpr int kAlignments = 13;

// Facts of a problem as bits of one word: described tensors, then FA_INPUT_*, then the rest.
constexpr int kInputShift = kTensorCount;
constexpr uint64_t kOneBase = uint64_t{1} << 40;  // k and v have one base each
constexpr uint64_t kRequestBases = uint64_t{1} << 41;
constexpr uint64_t kMaskKinds = uint64_t{1} << 42;
constexpr uint64_t kDiagonalOffsets = uint64_t{1} << 43;

constexpr uint64_t bit(TensorId id) { return tensor_bit(id); }
constexpr uint64_t input(uint32_t bits) { return uint64_t{bits} << kInputShift; }
static_assert(input(FA_INPUT_DROPOUT_POINTERS) < kOneBase);

struct Pointer {
  const char* name;
  size_t offset;   // in fa_attention_args
  uint64_t needs;  // given exactly when the problem has one of these facts
  Alignment alignment;
  Emptied emptied;
};

#define FA_ARG(field) #field, offsetof(fa_attention_args, field)
constexpr Pointer kPointers[] = {
    {FA_ARG(q), bit(TensorId::q), Alignment::q, Emptied::by_queries},
    {FA_ARG(k), kOneBase, Alignment::k, Emptied::by_keys},
    {FA_ARG(v), kOneBase, Alignment::v, Emptied::by_keys},
    {FA_ARG(o), bit(TensorId::o), Alignment::o, Emptied::by_queries},
    {FA_ARG(lse), bit(TensorId::lse), Alignment::four, Emptied::by_queries},
    {FA_ARG(cu_seqlens_q), input(FA_INPUT_CU_SEQLENS_Q), Alignment::four, Emptied::never},
    {FA_ARG(cu_seqlens_k), input(FA_INPUT_CU_SEQLENS_K), Alignment::four, Emptied::never},
    {FA_ARG(seqused_q), input(FA_INPUT_SEQUSED_Q), Alignment::four, Emptied::by_requests},
    {FA_ARG(seqused_k), input(FA_INPUT_SEQUSED_K), Alignment::four, Emptied::by_requests},
    {FA_ARG(leftpad_k), input(FA_INPUT_LEFTPAD_K), Alignment::four, Emptied::by_requests},
    {FA_ARG(cache_batch_idx), input(FA_INPUT_CACHE_BATCH_IDX), Alignment::four, Emptied::by_requests},
    {FA_ARG(block_table), bit(TensorId::block_table), Alignment::four, Emptied::by_table},
    {FA_ARG(k_ptrs), kRequestBases, Alignment::eight, Emptied::by_requests},
    {FA_ARG(v_ptrs), kRequestBases, Alignment::eight, Emptied::by_requests},
    {FA_ARG(mask_kinds), kMaskKinds, Alignment::four, Emptied::by_requests},
    {FA_ARG(diagonal_offsets), kDiagonalOffsets, Alignment::four, Emptied::by_requests},
    {FA_ARG(tree_sizes), bit(TensorId::tree_mask), Alignment::four, Emptied::by_requests},
    {FA_ARG(alibi), bit(TensorId::alibi), Alignment::four, Emptied::by_requests},
    {FA_ARG(bias), bit(TensorId::bias), Alignment::bias, Emptied::by_scores},
    {FA_ARG(mask), bit(TensorId::mask), Alignment::one, Emptied::by_scores},
    {FA_ARG(tree_mask), bit(TensorId::tree_mask), Alignment::eight, Emptied::by_queries},
    {FA_ARG(sink), bit(TensorId::sink), Alignment::four, Emptied::never},
    {FA_ARG(dropout_seed_ptr), input(FA_INPUT_DROPOUT_POINTERS), Alignment::eight, Emptied::never},
    {FA_ARG(dropout_offset_ptr), input(FA_INPUT_DROPOUT_POINTERS), Alignment::eight, Emptied::never},
    {FA_ARG(k_cache_out), bit(TensorId::k_new), Alignment::input, Emptied::by_keys},
    {FA_ARG(v_cache_out), bit(TensorId::v_new), Alignment::input, Emptied::by_keys},
    {FA_ARG(k_new), bit(TensorId::k_new), Alignment::input, Emptied::by_requests},
    {FA_ARG(v_new), bit(TensorId::v_new), Alignment::input, Emptied::by_requests},
    {FA_ARG(cu_seqlens_k_new), input(FA_INPUT_CU_SEQLENS_K_NEW), Alignment::four, Emptied::never},
    {FA_ARG(seqlens_rotary), input(FA_INPUT_SEQLENS_ROTARY), Alignment::four, Emptied::by_requests},
    {FA_ARG(rotary_cos), bit(TensorId::rotary_cos), Alignment::input, Emptied::never},
    {FA_ARG(rotary_sin), bit(TensorId::rotary_sin), Alignment::input, Emptied::never},
    {FA_ARG(q_descale), bit(TensorId::q_descale), Alignment::four, Emptied::by_requests},
    {FA_ARG(k_descale), bit(TensorId::k_descale), Alignment::four, Emptied::by_requests},
    {FA_ARG(v_descale), bit(TensorId::v_descale), Alignment::four, Emptied::by_requests},
    {FA_ARG(dout), bit(TensorId::dout), Alignment::dout, Emptied::by_queries},
    {FA_ARG(dq), bit(TensorId::dq), Alignment::dq, Emptied::by_queries},
    {FA_ARG(dk), bit(TensorId::dk), Alignment::dk, Emptied::by_keys},
    {FA_ARG(dv), bit(TensorId::dv), Alignment::dv, Emptied::by_keys},
    {FA_ARG(dlse), bit(TensorId::dlse), Alignment::four, Emptied::by_queries},
    {FA_ARG(dbias), bit(TensorId::dbias), Alignment::four, Emptied::by_dbias},
    {FA_ARG(dsink), bit(TensorId::dsink), Alignment::four, Emptied::never},
    {FA_ARG(dslopes), bit(TensorId::dslopes), Alignment::four, Emptied::by_dslopes},
};
#undef FA_ARG

const void* pointer_at(const fa_attention_args& args, size_t offset) {
  const void* value = nullptr;
  std::memcpy(&value, reinterpret_cast<const char*>(&args) + offset, sizeof value);
  return value;
}

uint64_t facts_of(const Problem& problem) {
  uint64_t facts = problem.tensors | input(problem.inputs);
  facts |= problem.kv_layout == KvLayout::pointers ? kRequestBases : kOneBase;
  if (problem.mask_kind == MaskKind::per_request) facts |= kMaskKinds;
  if (problem.diagonal == Diagonal::offset_per_request) facts |= kDiagonalOffsets;
  return facts;
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
    case Emptied::by_dbias:
      return problem.dbias_batches == 0 || problem.dbias_heads == 0 || problem.dbias_rows == 0 || problem.dbias_columns == 0;
    case Emptied::by_dslopes:
      return problem.dslopes_rows == 0;
  }
  return false;
}

Status check_pointers(const Problem& problem, const fa_attention_args& args) {
  const uint64_t facts = facts_of(problem);
  const int64_t element = dtype_bytes(problem.dtype);
  const int64_t alignments[kAlignments] = {1,
                                           4,
                                           8,
                                           problem.q_alignment,
                                           problem.k_alignment,
                                           problem.v_alignment,
                                           problem.o_alignment,
                                           problem.dout_alignment,
                                           problem.dq_alignment,
                                           problem.dk_alignment,
                                           problem.dv_alignment,
                                           element,
                                           problem.has_bias ? dtype_bytes(problem.bias_dtype) : 1};
  for (const Pointer& pointer : kPointers) {
    const void* address = pointer_at(args, pointer.offset);
    const bool needed = (facts & pointer.needs) != 0;
    if (address == nullptr) {
      if (!needed || is_empty(problem, pointer.emptied)) continue;
      return invalid("%s is NULL but the description needs it", pointer.name);
    }
    if (!needed) return invalid("%s is %p but must be NULL: the description does not have it", pointer.name, address);
    const int64_t alignment = alignments[static_cast<int>(pointer.alignment)];
    if ((reinterpret_cast<uintptr_t>(address) & static_cast<uintptr_t>(alignment - 1)) != 0) {
      return invalid("%s is %p but must be a multiple of %lld bytes, as described", pointer.name, address,
                     static_cast<long long>(alignment));
    }
  }
  return Status();
}

}  // namespace

Status check_args(const Problem& problem, const fa_attention_args& args, const BorrowedMemory& memory) {
  if (args.reserved != 0) return invalid("args.reserved is %u but must be 0", args.reserved);
  FA_TRY(check_pointers(problem, args));
  return check_apart(problem, args, memory);
}

}  // namespace flash_attn
