// See check_apart.h. Tensors by their shape and strides (overlap.h): an output may lie in the gaps of another tensor.
#include "core/check_apart.h"

#include "core/overlap.h"
#include "core/tensor_check.h"

#include <algorithm>
#include <new>

namespace flash_attn {
namespace {

Region region_of(const void* base, int64_t element_bytes, int64_t columns, const int64_t (&extents)[3],
                 const int64_t (&strides)[3]) {
  const bool is_empty = extents[0] == 0 || extents[1] == 0 || extents[2] == 0;
  return {reinterpret_cast<uintptr_t>(base),
          is_empty ? 0 : columns * element_bytes,
          {extents[0], extents[1], extents[2]},
          {strides[0] * element_bytes, strides[1] * element_bytes, strides[2] * element_bytes}};
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

// What a run writes, and the question put to each input. Regions are made in their places here, since copies of what has just been
// written take longer than all else: a run checks this each time.
class Outputs {
 public:
  Outputs() {}

  template <class MakeRegion>
  void add(const char* name, const MakeRegion& make) {
    add(name, "an output", make);
  }

  void add_borrowed(const char* name, const void* base, size_t bytes) {
    constexpr auto kMost = static_cast<size_t>(kMaxSpanBytes);
    if (bytes > 0) add(name, "the workspace", [&] { return flat(base, 1, static_cast<int64_t>(std::min(bytes, kMost))); });
  }

  Status check_apart() const {
    for (int m = 0; m < count_; ++m) {
      for (int n = m + 1; n < count_; ++n) {
        const Output& a = outputs_[m];
        const Output& b = outputs_[n];
        if (!spans_meet(a.region, a.span, b.region, b.span) || !overlaps(a.region, b.region)) continue;
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
      return invalid("%s (%p) overlaps %s (%p) but %s must share no memory with an input", output.name, address(output.region),
                     name, address(input), output.kind);
    }
    return Status();
  }

 private:
  struct Output {
    const char* name;
    const char* kind;  // for messages
    Region region;
    int64_t span;  // kept, as every input asks
  };

  template <class MakeRegion>
  void add(const char* name, const char* kind, const MakeRegion& make) {
    Output* const output = new (&outputs_[count_++]) Output{name, kind, make(), 0};
    output->span = output->region.span_bytes();
  }

  static const void* address(const Region& region) { return reinterpret_cast<const void*>(region.base); }

  // Most: the gradients of q, k, v, bias, sink and slopes, and the workspace's two parts. The first count_ have begun.
  union {
    Output outputs_[8];
  };
  int count_ = 0;
};

Region dbias_region(const Problem& problem, const void* base) {
  return region_of(base, 4, problem.dbias_columns, {problem.dbias_batches, problem.dbias_heads, problem.dbias_rows},
                   {problem.dbias.batch, problem.dbias.head, problem.dbias.row});
}

void add_outputs(const Problem& p, const fa_attention_args& args, Outputs* outputs) {
  if (p.direction == Direction::forward) {
    outputs->add("o", [&] { return query_region(p, args.o, p.o, p.o_dtype, p.d_v); });
    if (p.has_lse) outputs->add("lse", [&] { return lse_region(p, args.lse, p.lse); });
    return;
  }
  outputs->add("dq", [&] { return query_region(p, args.dq, p.dq, p.dq_dtype, p.d); });
  outputs->add("dk", [&] { return key_region(p, args.dk, p.dk, p.dk_dtype, p.d, p.k_rows); });
  outputs->add("dv", [&] { return key_region(p, args.dv, p.dv, p.dv_dtype, p.d_v, p.k_rows); });
  if (p.has_dbias) outputs->add("dbias", [&] { return dbias_region(p, args.dbias); });
  if (p.has_dsink) outputs->add("dsink", [&] { return flat(args.dsink, 4, p.h_q); });
  if (p.has_dslopes)
    outputs->add("dslopes", [&] {
      return region_of(args.dslopes, 4, p.h_q, {p.dslopes_rows, 1, 1}, {p.dslopes_batch_stride, 0, 0});
    });
}

// What the forward wrote and a backward reads.
Status check_backward_inputs(const Problem& problem, const fa_attention_args& args, const Outputs& outputs) {
  FA_TRY(outputs.check_apart_from("o", query_region(problem, args.o, problem.o, problem.o_dtype, problem.d_v)));
  FA_TRY(outputs.check_apart_from("lse", lse_region(problem, args.lse, problem.lse)));
  FA_TRY(outputs.check_apart_from("dout", query_region(problem, args.dout, problem.dout, problem.o_dtype, problem.d_v)));
  return problem.has_dlse ? outputs.check_apart_from("dlse", lse_region(problem, args.dlse, problem.dlse)) : Status();
}

// Inputs without strides.
Status check_vectors(const Problem& problem, const fa_attention_args& args, const Outputs& outputs) {
  const auto check = [&outputs](const char* name, const void* base, int64_t bytes) {
    return base != nullptr ? outputs.check_apart_from(name, flat(base, 1, bytes)) : Status();
  };
  const int64_t b = problem.b;
  FA_TRY(check("cu_seqlens_q", args.cu_seqlens_q, 4 * (b + 1)));
  FA_TRY(check("cu_seqlens_k", args.cu_seqlens_k, 4 * (b + 1)));
  FA_TRY(check("seqused_q", args.seqused_q, 4 * b));
  FA_TRY(check("seqused_k", args.seqused_k, 4 * b));
  FA_TRY(check("leftpad_k", args.leftpad_k, 4 * b));
  FA_TRY(check("cache_batch_idx", args.cache_batch_idx, 4 * b));
  FA_TRY(check("mask_kinds", args.mask_kinds, 4 * b));
  FA_TRY(check("diagonal_offsets", args.diagonal_offsets, 4 * b));
  FA_TRY(check("tree_sizes", args.tree_sizes, 4 * b));
  FA_TRY(check("k_ptrs", args.k_ptrs, 8 * b));
  FA_TRY(check("v_ptrs", args.v_ptrs, 8 * b));
  FA_TRY(check("dropout_seed_ptr", args.dropout_seed_ptr, 8));
  FA_TRY(check("dropout_offset_ptr", args.dropout_offset_ptr, 8));
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

Status check_apart(const Problem& problem, const fa_attention_args& args, const BorrowedMemory& memory) {
  Outputs outputs;
  outputs.add_borrowed("workspace.scratch", memory.scratch, memory.scratch_bytes);
  outputs.add_borrowed("workspace.state", memory.state, memory.state_bytes);
  add_outputs(problem, args, &outputs);
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
