// Check of a run's pointers against its problem: each given exactly when described, aligned as promised, and no output overlapping
// anything. Reads no tensor; of a CPU run it reads the arrays of per-request base pointers.
#include "core/problem.h"

#include "core/overlap.h"

#include <algorithm>
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

const void* pointer_of(const fa_attention_args& args, const Pointer& pointer) {
  const void* value = nullptr;
  std::memcpy(&value, reinterpret_cast<const char*>(&args) + pointer.offset, sizeof value);
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
    const void* address = pointer_of(args, pointer);
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

Region key_region(const Problem& problem, const void* base, const Axes& axes, DType dtype, int64_t columns, int64_t rows) {
  const int64_t batch = problem.kv_layout == KvLayout::pointers ? 1 : problem.k_batch;
  return region_of(base, dtype_bytes(dtype), columns, {batch, rows, problem.h_k}, {axes.batch, axes.row, axes.head});
}

// lse or its gradient.
Region lse_region(const Problem& problem, const void* base, const Axes& axes) {
  return region_of(base, 4, problem.packed_q ? problem.total_q : problem.max_s_q,
                   {problem.packed_q ? 1 : problem.b, problem.h_q, 1}, {axes.batch, axes.head, 0});
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

// The outputs of a run, and the question put to each input.
class Outputs {
 public:
  void add(const char* name, const Region& region) { outputs_[count_++] = Output{name, region, region.span_bytes()}; }

  Status check_apart() const {
    for (int m = 0; m < count_; ++m) {
      for (int n = m + 1; n < count_; ++n) {
        const Output& a = outputs_[m];
        const Output& b = outputs_[n];
        if (!overlaps(a.region, b.region)) continue;
        return invalid("%s (%p) and %s (%p) overlap but must be apart", a.name, address(a.region), b.name, address(b.region));
      }
    }
    return Status();
  }

  Status check_apart_from(const char* name, const Region& input) const {
    const int64_t span = input.span_bytes();
    for (int m = 0; m < count_; ++m) {
      const Output& output = outputs_[m];
      if (!spans_meet(output.region, output.span, input, span) || !overlaps(output.region, input)) continue;
      return invalid("%s (%p) overlaps %s (%p) but an output must share no memory with an input", output.name,
                     address(output.region), name, address(input));
    }
    return Status();
  }

 private:
  struct Output {
    const char* name = nullptr;
    Region region;
    int64_t span = 0;  // kept, as every input asks
  };

  static const void* address(const Region& region) { return reinterpret_cast<const void*>(region.base); }

  Output outputs_[6];  // most: the gradients of q, k, v, bias, sink and slopes
  int count_ = 0;
};

Region dbias_region(const Problem& problem, const void* base) {
  return region_of(base, 4, problem.dbias_columns, {problem.dbias_batches, problem.dbias_heads, problem.dbias_rows},
                   {problem.dbias.batch, problem.dbias.head, problem.dbias.row});
}

Outputs outputs_of(const Problem& problem, const fa_attention_args& args) {
  Outputs outputs;
  if (problem.direction == Direction::forward) {
    outputs.add("o", query_region(problem, args.o, problem.o, problem.o_dtype, problem.d_v));
    if (problem.has_lse) outputs.add("lse", lse_region(problem, args.lse, problem.lse));
    return outputs;
  }
  outputs.add("dq", query_region(problem, args.dq, problem.dq, problem.dq_dtype, problem.d));
  outputs.add("dk", key_region(problem, args.dk, problem.dk, problem.dk_dtype, problem.d, problem.k_rows));
  outputs.add("dv", key_region(problem, args.dv, problem.dv, problem.dv_dtype, problem.d_v, problem.k_rows));
  if (problem.has_dbias) outputs.add("dbias", dbias_region(problem, args.dbias));
  if (problem.has_dsink) outputs.add("dsink", flat(args.dsink, 4, problem.h_q));
  if (problem.has_dslopes) {
    outputs.add("dslopes",
                region_of(args.dslopes, 4, problem.h_q, {problem.dslopes_rows, 1, 1}, {problem.dslopes_batch_stride, 0, 0}));
  }
  return outputs;
}

// What the forward wrote and a backward reads.
Status check_backward_inputs(const Problem& problem, const fa_attention_args& args, const Outputs& outputs) {
  FA_TRY(outputs.check_apart_from("o", query_region(problem, args.o, problem.o, problem.o_dtype, problem.d_v)));
  FA_TRY(outputs.check_apart_from("lse", lse_region(problem, args.lse, problem.lse)));
  FA_TRY(outputs.check_apart_from("dout", query_region(problem, args.dout, problem.dout, problem.o_dtype, problem.d_v)));
  return problem.has_dlse ? outputs.check_apart_from("dlse", lse_region(problem, args.dlse, problem.dlse)) : Status();
}

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

// Physical rows that request r may use from its own bases: what lies behind them need not be its memory. 0 if it has no keys.
int64_t rows_behind_base(const Problem& problem, const fa_attention_args& args, int64_t r) {
  const int64_t most = std::min(problem.k_rows, problem.max_s_k);
  const int64_t rows = args.seqused_k == nullptr ? most : std::clamp<int64_t>(args.seqused_k[r], 0, most);
  return args.leftpad_k != nullptr && args.leftpad_k[r] >= rows ? 0 : rows;
}

// Bases of each request's keys. A request without keys needs none.
Status check_request_pointers(const Problem& problem, const fa_attention_args& args, const Outputs& outputs) {
  for (int64_t r = 0; r < problem.b; ++r) {
    const int64_t rows = rows_behind_base(problem, args, r);
    if (rows == 0) continue;
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
      const Region region =
          key_region(problem, base, is_k ? problem.k : problem.v, problem.dtype, is_k ? problem.d : problem.d_v, rows);
      FA_TRY(outputs.check_apart_from(list, region));
    }
  }
  return Status();
}

}  // namespace

Status check_args(const Problem& problem, const fa_attention_args& args) {
  if (args.reserved != 0) return invalid("args.reserved is %u but must be 0", args.reserved);
  FA_TRY(check_pointers(problem, args));
  const Outputs outputs = outputs_of(problem, args);
  FA_TRY(outputs.check_apart());
  FA_TRY(outputs.check_apart_from("q", query_region(problem, args.q, problem.q, problem.dtype, problem.d)));
  if (problem.kv_layout != KvLayout::pointers) {
    FA_TRY(outputs.check_apart_from("k", key_region(problem, args.k, problem.k, problem.dtype, problem.d, problem.k_rows)));
    FA_TRY(outputs.check_apart_from("v", key_region(problem, args.v, problem.v, problem.dtype, problem.d_v, problem.k_rows)));
  } else if (problem.device_type == FA_DEVICE_CPU) {
    FA_TRY(check_request_pointers(problem, args, outputs));
  }
  if (problem.direction == Direction::backward) FA_TRY(check_backward_inputs(problem, args, outputs));
  FA_TRY(check_vectors(problem, args, outputs));
  return check_score_inputs(problem, args, outputs);
}

}  // namespace flash_attn
