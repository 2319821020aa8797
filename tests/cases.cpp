// What can be derived from a CaseSpec: lengths, work, text. The rows themselves are in cases_table.cpp, cases_bench.cpp and
// cases_backward.cpp, the names of features in cases_features.cpp.
#include "tests/cases_text.h"

#include <algorithm>
#include <sstream>

namespace flash_attn::test {
namespace {

int64_t request_delta(const CaseSpec& spec, int64_t request, int64_t s_q, int64_t s_k) {
  switch (spec.diagonal) {
    case FA_DIAGONAL_TOP_LEFT:
      return 0;
    case FA_DIAGONAL_OFFSET:
      return spec.diagonal_offset;
    case FA_DIAGONAL_OFFSET_PER_REQUEST:
      return spec.diagonal_offset + request;
    default:
      return s_k - s_q;
  }
}

// Keys that a row on the given diagonal sees by causal mask, window and chunk.
int64_t visible_keys(const CaseSpec& spec, int64_t diagonal, int64_t s_k) {
  const int64_t right = spec.mask_kind == FA_MASK_CAUSAL ? 0 : spec.window_right;
  int64_t begin = spec.window_left < 0 ? 0 : std::max<int64_t>(0, diagonal - spec.window_left);
  int64_t end = right < 0 ? s_k : std::min(s_k, diagonal + right + 1);
  if (spec.chunk > 0) {
    const int64_t chunk_begin = diagonal - ((diagonal % spec.chunk) + spec.chunk) % spec.chunk;
    begin = std::max(begin, chunk_begin);
    end = std::min(end, chunk_begin + spec.chunk);
  }
  end = std::max<int64_t>(end, 0);
  begin = std::min(begin, end);
  return end - begin + std::min(begin, spec.first_keys);
}

// Writes " name=value" for what differs from the default.
class FieldWriter {
 public:
  template <class T>
  void field(const char* name, const T& value, const T& standard) {
    if (!(value == standard)) text_ << ' ' << name << '=' << value;
  }
  void list(const char* name, const std::vector<int64_t>& values) {
    if (values.empty()) return;
    text_ << ' ' << name << "={";
    for (size_t i = 0; i < values.size() && i < 32; ++i) text_ << (i ? "," : "") << values[i];
    text_ << (values.size() > 32 ? ",...}" : "}");
  }
  void bias(const char* name, const BiasSpec& spec) {
    if (!spec.present) return;
    text_ << ' ' << name << "={broadcast=" << spec.broadcast << ",f32=" << spec.as_f32 << ",-inf=" << spec.minus_infinity << '}';
  }
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
};

void write_layout(const CaseSpec& spec, FieldWriter* out) {
  const CaseSpec standard;
  out->list("lengths_q", spec.lengths_q);
  out->list("lengths_k", spec.lengths_k);
  out->field("query_layout", std::string(spec.query_layout == QueryLayout::packed ? "packed" : "dense"), std::string("dense"));
  out->field("key_layout", std::string(layout_text(spec.key_layout)), std::string("dense"));
  out->field("strides", std::string(strides_text(spec.strides)), std::string("rows"));
  if (spec.key_layout == KeyLayout::paged) out->field("page_size", spec.page_size, int64_t{0});
  out->field("seqused_q", spec.seqused_q, standard.seqused_q);
  out->field("seqused_k", spec.seqused_k, standard.seqused_k);
  out->field("leftpad", spec.leftpad, standard.leftpad);
  out->field("cache_batch_idx", spec.cache_batch_idx, standard.cache_batch_idx);
}

void write_gradients(const CaseSpec& spec, FieldWriter* out) {
  if (spec.direction == FA_FORWARD) return;
  out->field("direction", std::string("backward"), std::string());
  out->field("dlse", spec.gradients.dlse, false);
  out->field("dbias", spec.gradients.dbias, false);
  out->field("dsink", spec.gradients.dsink, false);
  out->field("dslopes", spec.gradients.dslopes, false);
  out->field("f32_gradients", spec.gradients.as_f32, false);
  out->field("gradient_strides", std::string(strides_text(spec.gradients.strides)), std::string("rows"));
}

void write_scores(const CaseSpec& spec, FieldWriter* out) {
  const CaseSpec standard;
  out->field("mask", std::string(mask_kind_text(spec.mask_kind)), std::string("full"));
  out->field("diagonal", std::string(diagonal_text(spec.diagonal)), std::string(diagonal_text(standard.diagonal)));
  out->field("diagonal_offset", spec.diagonal_offset, standard.diagonal_offset);
  out->field("window_left", spec.window_left, standard.window_left);
  out->field("window_right", spec.window_right, standard.window_right);
  out->field("first_keys", spec.first_keys, standard.first_keys);
  out->field("chunk", spec.chunk, standard.chunk);
  out->field("tree_size", spec.tree_size, standard.tree_size);
  if (!std::isnan(spec.scale)) out->field("scale", spec.scale, std::numeric_limits<float>::infinity());
  out->field("softcap", spec.softcap, standard.softcap);
  out->field("alibi", spec.alibi, standard.alibi);
  out->bias("bias", spec.bias);
  out->bias("mask", spec.mask);
  out->field("sink", spec.sink, standard.sink);
  out->field("dropout_p", spec.dropout_p, standard.dropout_p);
  out->field("dropout_pointers", spec.dropout_pointers, standard.dropout_pointers);
}

}  // namespace

const std::vector<CaseSpec>& all_cases() {
  static const std::vector<CaseSpec> cases = [] {
    std::vector<CaseSpec> all = table_cases();
    for (CaseSpec& spec : bench_cases()) all.push_back(std::move(spec));
    return all;
  }();
  return cases;
}

std::vector<int64_t> query_lengths(const CaseSpec& spec) {
  return spec.lengths_q.empty() ? std::vector<int64_t>(spec.batch, spec.s_q) : spec.lengths_q;
}

std::vector<int64_t> key_lengths(const CaseSpec& spec) {
  return spec.lengths_k.empty() ? std::vector<int64_t>(spec.batch, spec.s_k) : spec.lengths_k;
}

double flops(const CaseSpec& spec) {
  const std::vector<int64_t> rows = query_lengths(spec), keys = key_lengths(spec);
  double pairs = 0;
  for (int64_t r = 0; r < spec.batch; ++r) {
    const int64_t delta = request_delta(spec, r, rows[r], keys[r]);
    for (int64_t i = 0; i < rows[r]; ++i) pairs += static_cast<double>(visible_keys(spec, i + delta, keys[r]));
  }
  const int64_t products = spec.direction == FA_FORWARD ? spec.d + spec.value_dim() : 3 * spec.d + 2 * spec.value_dim();
  return 2.0 * static_cast<double>(products) * static_cast<double>(spec.h_q) * pairs;
}

double bytes(const CaseSpec& spec, fa_dtype dtype) {
  const std::vector<int64_t> rows = query_lengths(spec), keys = key_lengths(spec);
  double elements = 0;
  for (int64_t r = 0; r < spec.batch; ++r) {
    elements += static_cast<double>(rows[r] * spec.h_q + keys[r] * spec.h_k) * static_cast<double>(spec.d + spec.value_dim());
  }
  const double tensors = spec.direction == FA_FORWARD ? 1.0 : 2.0;
  return tensors * elements * static_cast<double>(element_bytes(dtype));
}

std::string to_text(const CaseSpec& spec) {
  const CaseSpec standard;
  FieldWriter out;
  out.field("batch", spec.batch, int64_t{-1});
  out.field("s_q", spec.s_q, int64_t{-1});
  out.field("s_k", spec.s_k, int64_t{-1});
  out.field("h_q", spec.h_q, int64_t{-1});
  out.field("h_k", spec.h_k, int64_t{-1});
  out.field("d", spec.d, int64_t{-1});
  out.field("d_v", spec.value_dim(), spec.d);
  write_layout(spec, &out);
  write_scores(spec, &out);
  out.field("lse", spec.lse, standard.lse);
  if (spec.o_dtype != FA_DTYPE_NONE) out.field("o_dtype", std::string(dtype_text(spec.o_dtype)), std::string());
  out.field("flags", spec.flags, standard.flags);
  out.field("num_splits", spec.num_splits, standard.num_splits);
  out.field("split_size", spec.split_size, standard.split_size);
  out.field("num_threads", spec.num_threads, standard.num_threads);
  out.field("magnitude", spec.magnitude, standard.magnitude);
  write_gradients(spec, &out);
  return spec.name + ":" + out.text();
}

std::vector<fa_dtype> dtype_list(uint32_t dtypes) {
  std::vector<fa_dtype> list;
  if (dtypes & kF32) list.push_back(FA_DTYPE_F32);
  if (dtypes & kBf16) list.push_back(FA_DTYPE_BF16);
  if (dtypes & kF16) list.push_back(FA_DTYPE_F16);
  return list;
}

const char* dtype_text(fa_dtype dtype) {
  switch (dtype) {
    case FA_DTYPE_F32:
      return "f32";
    case FA_DTYPE_F16:
      return "f16";
    case FA_DTYPE_BF16:
      return "bf16";
    case FA_DTYPE_I32:
      return "i32";
    case FA_DTYPE_U64:
      return "u64";
    case FA_DTYPE_BOOL:
      return "bool";
    case FA_DTYPE_F8E4M3:
      return "f8e4m3";
    case FA_DTYPE_F8E5M2:
      return "f8e5m2";
    default:
      return "none";
  }
}

int64_t element_bytes(fa_dtype dtype) {
  switch (dtype) {
    case FA_DTYPE_U64:
      return 8;
    case FA_DTYPE_F32:
    case FA_DTYPE_I32:
      return 4;
    case FA_DTYPE_F16:
    case FA_DTYPE_BF16:
      return 2;
    default:
      return 1;
  }
}

}  // namespace flash_attn::test
