// Shapes, strides, lengths and tables of a problem, and its data. Effective lengths come from the CaseSpec; physical extents are
// made larger wherever a feature allows it, so that there is dead memory to poison.
#include "tests/support/problem_builder.h"

#include "tests/oracle/values.h"
#include "tests/support/tensor_layout.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace flash_attn::test {

class ProblemBuilder {
 public:
  ProblemBuilder(TestProblem* problem, GuardedBuffer::Edge edge)
      : p_(*problem), spec_(problem->spec_), desc_(problem->desc_), args_(problem->args_), random_(problem->seed_), edge_(edge) {}

  void build() {
    fa_attention_desc_init(&desc_);
    fa_attention_args_init(&args_);
    choose_lengths();
    set_options();
    make_queries();
    make_keys();
    make_outputs();
    make_score_inputs();
    make_tree();
    make_dropout();
    for (GuardedBuffer& buffer : p_.inputs_) buffer.make_read_only();
  }

 private:
  bool packed_q() const { return spec_.query_layout == QueryLayout::packed; }
  bool packed_k() const { return spec_.key_layout == KeyLayout::packed; }

  GuardedBuffer& new_buffer(int64_t elements, int64_t element_size) {
    p_.inputs_.emplace_back(static_cast<size_t>(elements * element_size), static_cast<size_t>(element_size), edge_);
    return p_.inputs_.back();
  }

  const int32_t* new_table(const std::vector<int32_t>& values) {
    GuardedBuffer& buffer = new_buffer(static_cast<int64_t>(values.size()), 4);
    if (!values.empty()) std::memcpy(buffer.data(), values.data(), values.size() * sizeof(int32_t));
    return buffer.as<int32_t>();
  }

  GuardedBuffer& new_poisoned(fa_dtype dtype, int64_t elements) {
    GuardedBuffer& buffer = new_buffer(elements, element_bytes(dtype));
    poison(buffer.data(), dtype, elements);
    return buffer;
  }

  void choose_lengths();
  void set_options();
  void make_queries();
  void make_keys();
  void make_contiguous_keys(TensorLayout k, TensorLayout v);
  void make_paged_keys(TensorLayout k, TensorLayout v);
  void make_pointer_keys(TensorLayout k, TensorLayout v);
  void fill_key_rows(int64_t request, const TensorLayout& layout, void* base, int64_t first_offset);
  void make_outputs();
  void make_score_inputs();
  void make_bias(const BiasSpec& spec, bool is_mask);
  void make_tree();
  void make_dropout();
  std::vector<int32_t> to_table(const std::vector<int64_t>& values) const { return {values.begin(), values.end()}; }

  TestProblem& p_;
  const CaseSpec& spec_;
  fa_attention_desc& desc_;
  fa_attention_args& args_;
  Random random_;
  GuardedBuffer::Edge edge_;

  std::vector<int64_t> rows_, keys_, leftpad_;  // effective rows and keys, left padding
  std::vector<int32_t> cu_q_, cu_k_;            // packed row offsets
  int64_t extent_q_ = 0, extent_k_ = 0;         // rows a request can hold
  int64_t total_q_ = 0, total_k_ = 0;           // rows of packed tensors
};

void ProblemBuilder::choose_lengths() {
  rows_ = query_lengths(spec_);
  keys_ = key_lengths(spec_);
  leftpad_.assign(spec_.batch, 0);
  cu_q_ = cu_k_ = {0};
  extent_q_ = spec_.s_q + (uses_seqused_q(spec_) && !packed_q() ? 1 : 0);
  for (int64_t r = 0; r < spec_.batch; ++r) {
    if (spec_.leftpad > 0) leftpad_[r] = spec_.leftpad - r % (spec_.leftpad + 1);
    extent_k_ = std::max(extent_k_, leftpad_[r] + spec_.s_k + (uses_seqused_k(spec_) ? 2 : 0));
    cu_q_.push_back(static_cast<int32_t>(cu_q_.back() + rows_[r] + (spec_.seqused_q ? r % 3 : 0)));
    cu_k_.push_back(static_cast<int32_t>(cu_k_.back() + leftpad_[r] + keys_[r] + (spec_.seqused_k ? r % 3 : 0)));
  }
  // A dense cache without seqused is full to its end.
  if (!uses_seqused_k(spec_) && !packed_k()) {
    for (int64_t r = 0; r < spec_.batch; ++r) keys_[r] = extent_k_ - leftpad_[r];
  }
  total_q_ = cu_q_.back() + (spec_.seqused_q ? 2 : 0);
  total_k_ = cu_k_.back() + (spec_.seqused_k ? 2 : 0);
}

void ProblemBuilder::set_options() {
  desc_.batch = spec_.batch;
  desc_.flags = spec_.flags;
  desc_.mask_kind = spec_.mask_kind;
  desc_.diagonal = spec_.diagonal;
  if (spec_.diagonal == FA_DIAGONAL_OFFSET) desc_.diagonal_offset = spec_.diagonal_offset;
  desc_.window_left = spec_.window_left;
  desc_.window_right = spec_.window_right;
  desc_.first_keys = spec_.first_keys;
  desc_.chunk = spec_.chunk;
  desc_.scale = spec_.scale;
  desc_.softcap = spec_.softcap;
  desc_.dropout_p = spec_.dropout_p;
  desc_.num_splits = spec_.num_splits;
  desc_.split_size = spec_.split_size;
  desc_.num_threads = spec_.num_threads;
  if (spec_.diagonal == FA_DIAGONAL_OFFSET_PER_REQUEST) {
    std::vector<int32_t> offsets(spec_.batch);
    std::iota(offsets.begin(), offsets.end(), static_cast<int32_t>(spec_.diagonal_offset));
    args_.diagonal_offsets = new_table(offsets);
  }
  if (spec_.mask_kind == FA_MASK_PER_REQUEST) {
    std::vector<int32_t> kinds(spec_.batch);
    for (int64_t r = 0; r < spec_.batch; ++r) kinds[r] = static_cast<int32_t>(r % 3);
    args_.mask_kinds = new_table(kinds);
  }
}

void ProblemBuilder::make_queries() {
  const TensorLayout q = query_tensor(spec_, packed_q() ? total_q_ : extent_q_, spec_.d, p_.dtype_);
  desc_.q = q.desc;
  GuardedBuffer& buffer = new_poisoned(p_.dtype_, q.elements);
  for (int64_t r = 0; r < spec_.batch; ++r) {
    for (int64_t i = 0; i < rows_[r]; ++i) {
      for (int64_t head = 0; head < spec_.h_q; ++head) {
        const int64_t offset = packed_q() ? q.offset3(cu_q_[r] + i, head) : q.offset4(r, i, head);
        for (int64_t c = 0; c < spec_.d; ++c) {
          oracle::store_value(buffer.data(), p_.dtype_, offset + c, random_.normal() * spec_.magnitude);
        }
      }
    }
  }
  args_.q = buffer.data();
  if (packed_q()) {
    desc_.inputs |= FA_INPUT_CU_SEQLENS_Q;
    args_.cu_seqlens_q = new_table(cu_q_);
    for (int64_t r = 0; r < spec_.batch; ++r) desc_.max_s_q = std::max<int64_t>(desc_.max_s_q, cu_q_[r + 1] - cu_q_[r]);
  }
  if (uses_seqused_q(spec_)) {
    desc_.inputs |= FA_INPUT_SEQUSED_Q;
    args_.seqused_q = new_table(to_table(rows_));
  }
}

void ProblemBuilder::make_keys() {
  const KeyExtents extents = {.rows = extent_k_, .total = total_k_, .pages = 0, .cache_rows = spec_.batch};
  switch (spec_.key_layout) {
    case KeyLayout::paged: {
      int64_t pages = 2;
      for (int64_t r = 0; r < spec_.batch; ++r) pages += (leftpad_[r] + keys_[r] + spec_.page_size - 1) / spec_.page_size;
      KeyExtents paged = extents;
      paged.pages = pages;
      make_paged_keys(key_tensor(spec_, paged, p_.dtype_, false), key_tensor(spec_, paged, p_.dtype_, true));
      break;
    }
    case KeyLayout::pointers:
      make_pointer_keys(key_tensor(spec_, extents, p_.dtype_, false), key_tensor(spec_, extents, p_.dtype_, true));
      break;
    default: {
      KeyExtents cache = extents;
      if (spec_.cache_batch_idx) cache.cache_rows += 2;
      make_contiguous_keys(key_tensor(spec_, cache, p_.dtype_, false), key_tensor(spec_, cache, p_.dtype_, true));
    }
  }
  if (spec_.key_layout != KeyLayout::dense) {
    for (int64_t r = 0; r < spec_.batch; ++r)
      desc_.max_s_k = std::max(desc_.max_s_k, packed_k() ? cu_k_[r + 1] - cu_k_[r] : extent_k_);
  }
  if (uses_seqused_k(spec_)) {
    desc_.inputs |= FA_INPUT_SEQUSED_K;
    std::vector<int64_t> used(spec_.batch);
    for (int64_t r = 0; r < spec_.batch; ++r) used[r] = leftpad_[r] + keys_[r];
    args_.seqused_k = new_table(to_table(used));
  }
  if (spec_.leftpad > 0) {
    desc_.inputs |= FA_INPUT_LEFTPAD_K;
    args_.leftpad_k = new_table(to_table(leftpad_));
  }
}

// Write the keys (or values) of one request; row j lies at first_offset + (leftpad + j) * row stride.
void ProblemBuilder::fill_key_rows(int64_t request, const TensorLayout& layout, void* base, int64_t first_offset) {
  for (int64_t j = 0; j < keys_[request]; ++j) {
    for (int64_t head = 0; head < spec_.h_k; ++head) {
      const int64_t offset = first_offset + (leftpad_[request] + j) * layout.row_stride() + head * layout.head_stride();
      for (int64_t c = 0; c < layout.dim(); ++c) oracle::store_value(base, p_.dtype_, offset + c, random_.normal());
    }
  }
}

void ProblemBuilder::make_contiguous_keys(TensorLayout k, TensorLayout v) {
  std::vector<int32_t> cache_rows(spec_.batch);
  for (int64_t r = 0; r < spec_.batch; ++r) {
    cache_rows[r] = static_cast<int32_t>(spec_.cache_batch_idx ? (spec_.batch - r + 1) % (spec_.batch + 2) : r);
  }
  desc_.k = k.desc;
  desc_.v = v.desc;
  const bool fused = spec_.strides == Strides::fused;
  GuardedBuffer& k_buffer = new_poisoned(p_.dtype_, fused ? std::max(k.elements, v.elements + v.first_element) : k.elements);
  GuardedBuffer& v_buffer = fused ? k_buffer : new_poisoned(p_.dtype_, v.elements);
  args_.k = k_buffer.data();
  args_.v = v_buffer.as<char>() + v.first_element * element_bytes(p_.dtype_);
  for (int64_t r = 0; r < spec_.batch; ++r) {
    const int64_t k_first = packed_k() ? cu_k_[r] * k.row_stride() : cache_rows[r] * k.desc.stride[0];
    const int64_t v_first = packed_k() ? cu_k_[r] * v.row_stride() : cache_rows[r] * v.desc.stride[0];
    fill_key_rows(r, k, k_buffer.data(), k_first);
    fill_key_rows(r, v, v_buffer.data(), v_first + v.first_element);
  }
  if (packed_k()) {
    desc_.inputs |= FA_INPUT_CU_SEQLENS_K;
    args_.cu_seqlens_k = new_table(cu_k_);
  }
  if (spec_.cache_batch_idx) {
    desc_.inputs |= FA_INPUT_CACHE_BATCH_IDX;
    args_.cache_batch_idx = new_table(cache_rows);
  }
}

void ProblemBuilder::make_paged_keys(TensorLayout k, TensorLayout v) {
  desc_.kv_layout = FA_KV_PAGED;
  desc_.k = k.desc;
  desc_.v = v.desc;
  const bool fused = spec_.strides == Strides::fused;
  GuardedBuffer& k_buffer = new_poisoned(p_.dtype_, fused ? std::max(k.elements, v.elements + v.first_element) : k.elements);
  GuardedBuffer& v_buffer = fused ? k_buffer : new_poisoned(p_.dtype_, v.elements);
  args_.k = k_buffer.data();
  args_.v = v_buffer.as<char>() + v.first_element * element_bytes(p_.dtype_);

  std::vector<int32_t> free_pages(desc_.k.shape[0]);
  std::iota(free_pages.begin(), free_pages.end(), 0);
  for (size_t n = free_pages.size(); n > 1; --n) std::swap(free_pages[n - 1], free_pages[random_.below(static_cast<int64_t>(n))]);
  const int64_t max_pages = (extent_k_ + spec_.page_size - 1) / spec_.page_size + 1;
  // Entries past a request's length are never read: give them values that would fault.
  std::vector<int32_t> table(spec_.batch * max_pages);
  for (int32_t& entry : table) entry = random_.chance(0.5) ? -1 : std::numeric_limits<int32_t>::max();
  for (int64_t r = 0; r < spec_.batch; ++r) {
    const int64_t pages = (leftpad_[r] + keys_[r] + spec_.page_size - 1) / spec_.page_size;
    for (int64_t page = 0; page < pages; ++page) {
      table[r * max_pages + page] = free_pages.back();
      free_pages.pop_back();
    }
    for (int64_t j = 0; j < keys_[r]; ++j) {
      const int64_t row = leftpad_[r] + j, page = table[r * max_pages + row / spec_.page_size], slot = row % spec_.page_size;
      for (int64_t head = 0; head < spec_.h_k; ++head) {
        const int64_t k_offset = k.offset4(page, slot, head), v_offset = v.offset4(page, slot, head) + v.first_element;
        for (int64_t c = 0; c < k.dim(); ++c) oracle::store_value(k_buffer.data(), p_.dtype_, k_offset + c, random_.normal());
        for (int64_t c = 0; c < v.dim(); ++c) oracle::store_value(v_buffer.data(), p_.dtype_, v_offset + c, random_.normal());
      }
    }
  }
  desc_.block_table = contiguous_tensor(FA_DTYPE_I32, {spec_.batch, max_pages});
  args_.block_table = new_table(table);
}

void ProblemBuilder::make_pointer_keys(TensorLayout k, TensorLayout v) {
  desc_.kv_layout = FA_KV_POINTERS;
  desc_.k = k.desc;
  desc_.v = v.desc;
  const int64_t offset = v.first_element;
  const bool fused = spec_.strides == Strides::fused;
  for (int64_t r = 0; r < spec_.batch; ++r) {
    GuardedBuffer& k_buffer =
        new_poisoned(p_.dtype_, fused ? std::max(k.request_elements(), v.request_elements() + offset) : k.request_elements());
    GuardedBuffer& v_buffer = fused ? k_buffer : new_poisoned(p_.dtype_, v.request_elements());
    fill_key_rows(r, k, k_buffer.data(), 0);
    fill_key_rows(r, v, v_buffer.data(), offset);
    p_.k_ptrs_.push_back(k_buffer.data());
    p_.v_ptrs_.push_back(v_buffer.as<char>() + offset * element_bytes(p_.dtype_));
  }
  args_.k_ptrs = p_.k_ptrs_.data();
  args_.v_ptrs = p_.v_ptrs_.data();
}

void ProblemBuilder::make_outputs() {
  const fa_dtype o_dtype = spec_.o_dtype == FA_DTYPE_NONE ? p_.dtype_ : spec_.o_dtype;
  const TensorLayout o = query_tensor(spec_, packed_q() ? total_q_ : extent_q_, spec_.value_dim(), o_dtype);
  desc_.o = o.desc;
  const auto o_size = static_cast<size_t>(element_bytes(o_dtype));
  p_.o_ = GuardedBuffer(static_cast<size_t>(o.elements) * o_size, o_size, edge_);
  args_.o = p_.o_.data();
  if (spec_.lse) {
    desc_.lse = packed_q() ? contiguous_tensor(FA_DTYPE_F32, {spec_.h_q, total_q_})
                           : contiguous_tensor(FA_DTYPE_F32, {spec_.batch, spec_.h_q, extent_q_});
    int64_t elements = packed_q() ? spec_.h_q * total_q_ : spec_.batch * spec_.h_q * extent_q_;
    p_.lse_ = GuardedBuffer(static_cast<size_t>(elements) * 4, 4, edge_);
    args_.lse = p_.lse_.as<float>();
  }
  p_.reset_outputs();
}

void ProblemBuilder::make_score_inputs() {
  if (spec_.alibi != 0) {
    const bool per_request = spec_.alibi == 2;
    const int64_t elements = spec_.h_q * (per_request ? spec_.batch : 1);
    desc_.alibi =
        per_request ? contiguous_tensor(FA_DTYPE_F32, {spec_.batch, spec_.h_q}) : contiguous_tensor(FA_DTYPE_F32, {spec_.h_q});
    auto* slopes = new_buffer(elements, 4).as<float>();
    for (int64_t n = 0; n < elements; ++n) slopes[n] = static_cast<float>(random_.uniform() * 0.3);
    args_.alibi = slopes;
  }
  if (spec_.sink) {
    desc_.sink = contiguous_tensor(FA_DTYPE_F32, {spec_.h_q});
    auto* sink = new_buffer(spec_.h_q, 4).as<float>();
    for (int64_t head = 0; head < spec_.h_q; ++head) sink[head] = random_.normal() * 2.0f;
    args_.sink = sink;
  }
  if (spec_.bias.present) make_bias(spec_.bias, false);
  if (spec_.mask.present) make_bias(spec_.mask, true);
}

void ProblemBuilder::make_bias(const BiasSpec& spec, bool is_mask) {
  const fa_dtype dtype = is_mask ? FA_DTYPE_BOOL : (spec.as_f32 ? FA_DTYPE_F32 : p_.dtype_);
  const int64_t capacity = packed_k() ? total_k_ : extent_k_;
  const int64_t max_keys = desc_.max_s_k == 0 ? capacity : desc_.max_s_k;
  const TensorLayout bias = bias_tensor(spec_, spec, dtype, packed_q() ? total_q_ : extent_q_, max_keys);
  GuardedBuffer& buffer = new_buffer(bias.elements, element_bytes(dtype));
  if (is_mask) {
    for (int64_t n = 0; n < bias.elements; ++n) buffer.as<uint8_t>()[n] = static_cast<uint8_t>(random_.next());
  } else {
    poison(buffer.data(), dtype, bias.elements);
  }
  for (int64_t r = 0; r < spec_.batch; ++r) {
    for (int64_t head = 0; head < spec_.h_q; ++head) {
      for (int64_t i = 0; i < rows_[r]; ++i) {
        const int64_t row = packed_q() ? bias.broadcast_offset({head, cu_q_[r] + i}) : bias.broadcast_offset({r, head, i});
        const bool one_key = bias.desc.shape[bias.desc.rank - 1] == 1;
        for (int64_t j = 0; j < (one_key ? std::min<int64_t>(1, keys_[r]) : keys_[r]); ++j) {
          if (is_mask) {
            buffer.as<uint8_t>()[row + j] = random_.chance(0.7) ? static_cast<uint8_t>(random_.between(1, 255)) : uint8_t{0};
          } else {
            const bool minus_infinity = spec.minus_infinity > 0 && random_.chance(spec.minus_infinity);
            const float value = minus_infinity ? -std::numeric_limits<float>::infinity() : 2.0f * random_.normal();
            oracle::store_value(buffer.data(), dtype, row + j, value);
          }
        }
      }
    }
  }
  (is_mask ? desc_.mask : desc_.bias) = bias.desc;
  if (is_mask) args_.mask = buffer.as<uint8_t>();
  if (!is_mask) args_.bias = buffer.data();
}

void ProblemBuilder::make_tree() {
  if (spec_.mask_kind != FA_MASK_TREE && spec_.mask_kind != FA_MASK_PER_REQUEST) return;
  const int64_t words = std::max<int64_t>(1, (spec_.tree_size + 63) / 64), total = packed_q() ? total_q_ : spec_.batch * extent_q_;
  desc_.tree_mask = packed_q() ? contiguous_tensor(FA_DTYPE_U64, {total_q_, words})
                               : contiguous_tensor(FA_DTYPE_U64, {spec_.batch, extent_q_, words});
  auto* bits = new_buffer(total * words, 8).as<uint64_t>();
  for (int64_t n = 0; n < total * words; ++n) bits[n] = random_.next() & random_.next();
  args_.tree_mask = bits;
  std::vector<int32_t> sizes(spec_.batch);
  for (int64_t r = 0; r < spec_.batch; ++r)
    sizes[r] = static_cast<int32_t>(std::min(std::max<int64_t>(0, spec_.tree_size - r % 2), keys_[r]));
  args_.tree_sizes = new_table(sizes);
}

void ProblemBuilder::make_dropout() {
  if (spec_.dropout_p == 0.0f) return;
  const uint64_t seed = random_.next(), offset = random_.next();
  if (!spec_.dropout_pointers) {
    args_.dropout_seed = seed;
    args_.dropout_offset = offset;
    return;
  }
  desc_.inputs |= FA_INPUT_DROPOUT_POINTERS;
  auto* values = new_buffer(2, 8).as<uint64_t>();
  values[0] = seed;
  values[1] = offset;
  args_.dropout_seed_ptr = values;
  args_.dropout_offset_ptr = values + 1;
}

TestProblem::TestProblem(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, GuardedBuffer::Edge edge)
    : spec_(spec), dtype_(dtype), seed_(seed), desc_(), args_() {
  ProblemBuilder(this, edge).build();
}

std::string TestProblem::text() const { return to_text(spec_) + " dtype=" + dtype_text(dtype_) + " seed=" + std::to_string(seed_); }

}  // namespace flash_attn::test
