// A problem as the oracle sees it: lengths, addresses, visibility and scores of single (request, head, query, key) quadruples, read
// straight off docs/design.md, section "Semantics". Own code throughout; slow on purpose.
#pragma once

#include "flash_attn/flash_attn.h"

#include <cstdint>
#include <vector>

namespace flash_attn::oracle {

struct Request {
  int64_t s_q = 0, s_k = 0;  // effective lengths
  int64_t q_start = 0;       // first row in packed q
  int64_t k_start = 0;       // first row in packed k
  int64_t leftpad = 0;
  int64_t cache_row = 0;  // first coordinate in dense k
  int64_t delta = 0;
  int64_t tree_size = 0;
  fa_mask_kind kind = FA_MASK_FULL;
};

class View {
 public:
  // Host pointers; both structs must stay alive.
  View(const fa_attention_desc& desc, const fa_attention_args& args);

  const fa_attention_desc& desc() const { return desc_; }
  int64_t batch() const { return static_cast<int64_t>(requests_.size()); }
  int64_t heads() const { return heads_; }
  int64_t key_heads() const { return key_heads_; }
  int64_t group() const { return heads_ / key_heads_; }
  int64_t d() const { return d_; }
  int64_t d_v() const { return d_v_; }
  const Request& request(int64_t r) const { return requests_[r]; }

  double q(int64_t r, int64_t head, int64_t i, int64_t c) const;
  // Row j of a request's keys or values of one key head, all elements.
  void key_row(int64_t r, int64_t key_head, int64_t j, std::vector<double>* row) const;
  void value_row(int64_t r, int64_t key_head, int64_t j, std::vector<double>* row) const;
  // Element offsets in a tensor shaped as o (or q), as lse, as k or v where those are contiguous, and as a bias or mask.
  int64_t query_offset(const fa_tensor_desc& tensor, int64_t r, int64_t head, int64_t i) const;
  int64_t stat_offset(const fa_tensor_desc& tensor, int64_t r, int64_t head, int64_t i) const;
  int64_t key_offset(const fa_tensor_desc& tensor, int64_t r, int64_t key_head, int64_t j) const;
  int64_t score_offset(const fa_tensor_desc& tensor, int64_t r, int64_t head, int64_t i, int64_t j) const;
  // Of an output row in o, and of its entry in lse.
  int64_t o_offset(int64_t r, int64_t head, int64_t i) const { return query_offset(desc_.o, r, head, i); }
  int64_t lse_offset(int64_t r, int64_t head, int64_t i) const { return stat_offset(desc_.lse, r, head, i); }

  bool is_visible(int64_t r, int64_t head, int64_t i, int64_t j) const;
  double alibi_term(int64_t r, int64_t head, int64_t i, int64_t j) const;  // what is added to the score
  double bias_term(int64_t r, int64_t head, int64_t i, int64_t j) const;
  bool is_kept(int64_t r, int64_t head, int64_t i, int64_t j) const;  // by dropout
  double scale() const;
  double sink(int64_t head) const;  // -inf without one
  // Of a backward: the incoming gradients. dlse is 0 where none is given.
  void dout_row(int64_t r, int64_t head, int64_t i, std::vector<double>* row) const;
  double dlse(int64_t r, int64_t head, int64_t i) const;
  double distance(int64_t r, int64_t i, int64_t j) const;  // of key j from the diagonal: what a slope is multiplied with

 private:
  void read_lengths(int64_t r, Request* request) const;
  void read_mask_kind(int64_t r, Request* request) const;
  bool inside_limits(const Request& request, int64_t i, int64_t j) const;
  bool inside_tree(int64_t r, int64_t i, int64_t j) const;
  const void* row_base(const fa_tensor_desc& tensor, const void* base, const void* const* bases, int64_t r, int64_t key_head,
                       int64_t j, int64_t* offset) const;

  const fa_attention_desc& desc_;
  const fa_attention_args& args_;
  bool packed_q_, packed_k_;
  int64_t heads_ = 0, key_heads_ = 0, d_ = 0, d_v_ = 0;
  std::vector<Request> requests_;
};

}  // namespace flash_attn::oracle
