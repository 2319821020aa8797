// See view.h.
#include "tests/oracle/view.h"

#include "tests/oracle/random_bits.h"
#include "tests/oracle/values.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flash_attn::oracle {

View::View(const fa_attention_desc& desc, const fa_attention_args& args) : desc_(desc), args_(args) {
  packed_q_ = desc.q.rank == 3;
  packed_k_ = desc.k.rank == 3;
  heads_ = desc.q.shape[packed_q_ ? 1 : 2];
  d_ = desc.q.shape[packed_q_ ? 2 : 3];
  key_heads_ = desc.k.shape[packed_k_ ? 1 : 2];
  d_v_ = desc.v.shape[packed_k_ ? 2 : 3];
  requests_.resize(desc.batch > 0 ? desc.batch : desc.q.shape[0]);
  for (int64_t r = 0; r < batch(); ++r) {
    read_lengths(r, &requests_[r]);
    read_mask_kind(r, &requests_[r]);
  }
}

void View::read_lengths(int64_t r, Request* request) const {
  if (packed_q_) {
    request->q_start = args_.cu_seqlens_q[r];
    request->s_q = args_.cu_seqlens_q[r + 1] - args_.cu_seqlens_q[r];
  } else {
    request->s_q = desc_.q.shape[1];
  }
  if (args_.seqused_q != nullptr) request->s_q = args_.seqused_q[r];

  int64_t rows = 0;
  if (packed_k_) {
    request->k_start = args_.cu_seqlens_k[r];
    rows = args_.cu_seqlens_k[r + 1] - args_.cu_seqlens_k[r];
  } else if (desc_.kv_layout == FA_KV_PAGED) {
    rows = desc_.max_s_k > 0 ? desc_.max_s_k : desc_.block_table.shape[1] * desc_.k.shape[1];
  } else {
    rows = desc_.k.shape[1];
  }
  if (args_.seqused_k != nullptr) rows = args_.seqused_k[r];
  request->leftpad = args_.leftpad_k != nullptr ? args_.leftpad_k[r] : 0;
  request->s_k = std::max<int64_t>(0, rows - request->leftpad);
  request->cache_row = args_.cache_batch_idx != nullptr ? args_.cache_batch_idx[r] : r;
}

void View::read_mask_kind(int64_t r, Request* request) const {
  request->kind = desc_.mask_kind == FA_MASK_PER_REQUEST ? args_.mask_kinds[r] : desc_.mask_kind;
  if (request->kind == FA_MASK_TREE) request->tree_size = args_.tree_sizes[r];
  if (desc_.diagonal == FA_DIAGONAL_BOTTOM_RIGHT) request->delta = request->s_k - request->s_q;
  if (desc_.diagonal == FA_DIAGONAL_TOP_LEFT) request->delta = 0;
  if (desc_.diagonal == FA_DIAGONAL_OFFSET) request->delta = desc_.diagonal_offset;
  if (desc_.diagonal == FA_DIAGONAL_OFFSET_PER_REQUEST) request->delta = args_.diagonal_offsets[r];
}

double View::q(int64_t r, int64_t head, int64_t i, int64_t c) const {
  return load_value(args_.q, desc_.q.dtype, query_offset(desc_.q, r, head, i) + c);
}

const void* View::row_base(const fa_tensor_desc& tensor, const void* base, const void* const* bases, int64_t r, int64_t key_head,
                           int64_t j, int64_t* offset) const {
  const Request& request = requests_[r];
  const int64_t* stride = tensor.stride;
  const int64_t row = request.leftpad + j;
  if (packed_k_) {
    *offset = (request.k_start + row) * stride[0] + key_head * stride[1];
    return base;
  }
  if (desc_.kv_layout == FA_KV_POINTERS) {
    *offset = row * stride[1] + key_head * stride[2];
    return bases[r];
  }
  if (desc_.kv_layout == FA_KV_PAGED) {
    const int64_t page_size = tensor.shape[1];
    const int64_t page = args_.block_table[r * desc_.block_table.stride[0] + row / page_size];
    *offset = page * stride[0] + row % page_size * stride[1] + key_head * stride[2];
    return base;
  }
  *offset = request.cache_row * stride[0] + row * stride[1] + key_head * stride[2];
  return base;
}

void View::key_row(int64_t r, int64_t key_head, int64_t j, std::vector<double>* row) const {
  int64_t offset = 0;
  const void* base = row_base(desc_.k, args_.k, args_.k_ptrs, r, key_head, j, &offset);
  for (int64_t c = 0; c < d_; ++c) (*row)[c] = load_value(base, desc_.k.dtype, offset + c);
}

void View::value_row(int64_t r, int64_t key_head, int64_t j, std::vector<double>* row) const {
  int64_t offset = 0;
  const void* base = row_base(desc_.v, args_.v, args_.v_ptrs, r, key_head, j, &offset);
  for (int64_t c = 0; c < d_v_; ++c) (*row)[c] = load_value(base, desc_.v.dtype, offset + c);
}

int64_t View::query_offset(const fa_tensor_desc& tensor, int64_t r, int64_t head, int64_t i) const {
  const int64_t* stride = tensor.stride;
  return packed_q_ ? (requests_[r].q_start + i) * stride[0] + head * stride[1] : r * stride[0] + i * stride[1] + head * stride[2];
}

int64_t View::stat_offset(const fa_tensor_desc& tensor, int64_t r, int64_t head, int64_t i) const {
  const int64_t* stride = tensor.stride;
  return packed_q_ ? head * stride[0] + (requests_[r].q_start + i) * stride[1] : r * stride[0] + head * stride[1] + i * stride[2];
}

int64_t View::key_offset(const fa_tensor_desc& tensor, int64_t r, int64_t key_head, int64_t j) const {
  const int64_t* stride = tensor.stride;
  const int64_t row = requests_[r].leftpad + j;
  return packed_k_ ? (requests_[r].k_start + row) * stride[0] + key_head * stride[1]
                   : r * stride[0] + row * stride[1] + key_head * stride[2];
}

// Causal, window and chunk: everything that depends on where key j lies relative to the diagonal.
bool View::inside_limits(const Request& request, int64_t i, int64_t j) const {
  const int64_t diagonal = i + request.delta;
  if (request.kind == FA_MASK_CAUSAL && j > diagonal) return false;
  if (desc_.window_right >= 0 && j - diagonal > desc_.window_right) return false;
  bool left = true;
  if (desc_.window_left >= 0 && diagonal - j > desc_.window_left) left = false;
  if (desc_.chunk > 0) {
    // The chunk that holds the diagonal's key; below key 0 chunks go on with negative numbers.
    const int64_t number = static_cast<int64_t>(std::floor(static_cast<double>(diagonal) / static_cast<double>(desc_.chunk)));
    if (j >= (number + 1) * desc_.chunk) return false;
    if (j < number * desc_.chunk) left = false;
  }
  return left || j < desc_.first_keys;
}

bool View::inside_tree(int64_t r, int64_t i, int64_t j) const {
  const Request& request = requests_[r];
  const int64_t bit = j - (request.s_k - request.tree_size);
  if (bit < 0) return true;
  const int64_t* stride = desc_.tree_mask.stride;
  const int64_t row = desc_.tree_mask.rank == 2 ? (request.q_start + i) * stride[0] : r * stride[0] + i * stride[1];
  return (args_.tree_mask[row + bit / 64] >> (bit % 64) & 1) != 0;
}

int64_t View::score_offset(const fa_tensor_desc& tensor, int64_t r, int64_t head, int64_t i, int64_t j) const {
  const auto term = [&](int axis, int64_t index) { return tensor.shape[axis] == 1 ? 0 : index * tensor.stride[axis]; };
  if (tensor.rank == 3) return term(0, head) + term(1, requests_[r].q_start + i) + term(2, j);
  return term(0, r) + term(1, head) + term(2, i) + term(3, j);
}

bool View::is_visible(int64_t r, int64_t head, int64_t i, int64_t j) const {
  const Request& request = requests_[r];
  if (j < 0 || j >= request.s_k) return false;
  if (!inside_limits(request, i, j)) return false;
  if (request.kind == FA_MASK_TREE && !inside_tree(r, i, j)) return false;
  return args_.mask == nullptr || args_.mask[score_offset(desc_.mask, r, head, i, j)] != 0;
}

double View::alibi_term(int64_t r, int64_t head, int64_t i, int64_t j) const {
  if (args_.alibi == nullptr) return 0.0;
  const int64_t offset =
      desc_.alibi.rank == 1 ? head * desc_.alibi.stride[0] : r * desc_.alibi.stride[0] + head * desc_.alibi.stride[1];
  return -static_cast<double>(args_.alibi[offset]) * distance(r, i, j);
}

double View::distance(int64_t r, int64_t i, int64_t j) const { return static_cast<double>(std::llabs(i + requests_[r].delta - j)); }

double View::bias_term(int64_t r, int64_t head, int64_t i, int64_t j) const {
  if (args_.bias == nullptr) return 0.0;
  return load_value(args_.bias, desc_.bias.dtype, score_offset(desc_.bias, r, head, i, j));
}

bool View::is_kept(int64_t r, int64_t head, int64_t i, int64_t j) const {
  if (desc_.dropout_p == 0.0f) return true;
  const uint64_t seed = args_.dropout_seed_ptr != nullptr ? *args_.dropout_seed_ptr : args_.dropout_seed;
  const uint64_t offset = args_.dropout_offset_ptr != nullptr ? *args_.dropout_offset_ptr : args_.dropout_offset;
  const auto threshold = static_cast<uint32_t>(std::lround(static_cast<double>(desc_.dropout_p) * 65536.0));
  return dropout_draw(seed, offset, static_cast<uint32_t>(r), static_cast<uint32_t>(head), i, j) >= threshold;
}

void View::dout_row(int64_t r, int64_t head, int64_t i, std::vector<double>* row) const {
  const int64_t offset = query_offset(desc_.dout, r, head, i);
  for (int64_t c = 0; c < d_v_; ++c) (*row)[c] = load_value(args_.dout, desc_.dout.dtype, offset + c);
}

double View::dlse(int64_t r, int64_t head, int64_t i) const {
  return args_.dlse == nullptr ? 0.0 : args_.dlse[stat_offset(desc_.dlse, r, head, i)];
}

double View::scale() const { return std::isnan(desc_.scale) ? 1.0 / std::sqrt(static_cast<double>(d_)) : desc_.scale; }

double View::sink(int64_t head) const {
  return args_.sink == nullptr ? -std::numeric_limits<double>::infinity() : args_.sink[head];
}

}  // namespace flash_attn::oracle
