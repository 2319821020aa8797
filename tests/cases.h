// The one table of attention problems, read by the tests (label kTest) and by the benchmark (label kBench); backward ones beside
// it. A CaseSpec says what a problem is like, not what its data are: support/problem_builder.h turns it into descriptions and
// buffers. Plain data; it knows nothing of any backend.
#pragma once

#include "flash_attn/flash_attn.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

namespace flash_attn::test {

enum Label : uint32_t { kTest = 1, kBench = 2 };
enum DTypes : uint32_t { kF32 = 1, kF16 = 2, kBf16 = 4, kAllDTypes = 7 };

enum class QueryLayout { dense, packed };
enum class KeyLayout { dense, packed, paged, pointers };

// How q, k, v, o lie in memory.
enum class Strides {
  rows,      // [.., row, head, dim] without gaps
  heads,     // [.., head, row, dim] without gaps
  fused,     // k and v share one buffer, row by row; q and o have row strides as if they were part of wider rows
  padded,    // odd gaps after every head and row
  broadcast  // all requests read the k, v of the first (batch stride 0); dense k only
};

// Axes along which a bias or mask has extent 1.
enum Broadcast : uint32_t { kBatch = 1, kHead = 2, kRow = 4, kKey = 8 };

struct BiasSpec {
  bool present = false;
  uint32_t broadcast = 0;
  bool as_f32 = false;          // bias only: fp32 with 16-bit inputs
  float minus_infinity = 0.0f;  // bias only: share of the entries that are -inf
};

// Of a backward: which optional gradients there are, and how dout, dq, dk and dv lie in memory.
struct GradientSpec {
  bool dlse = false, dbias = false, dsink = false, dslopes = false;
  bool as_f32 = false;              // dq, dk and dv are fp32 with 16-bit inputs
  Strides strides = Strides::rows;  // not broadcast
};

struct CaseSpec {
  std::string name;
  uint32_t labels = kTest;
  uint32_t dtypes = kAllDTypes;
  fa_dtype o_dtype = FA_DTYPE_NONE;  // NONE: that of q

  int64_t batch = 1;
  int64_t s_q = 1, s_k = 1;  // most query rows and keys of a request
  int64_t h_q = 1, h_k = 1;
  int64_t d = 64, d_v = 0;                              // d_v 0: d
  std::vector<int64_t> lengths_q = {}, lengths_k = {};  // of each request; empty: all s_q, s_k

  QueryLayout query_layout = QueryLayout::dense;
  KeyLayout key_layout = KeyLayout::dense;
  Strides strides = Strides::rows;
  int64_t page_size = 16;
  bool seqused_q = false, seqused_k = false;  // see uses_seqused_q, uses_seqused_k: implied where lengths need them
  int64_t leftpad = 0;                        // most rows of left padding
  bool cache_batch_idx = false;

  fa_mask_kind mask_kind = FA_MASK_FULL;
  fa_diagonal diagonal = FA_DIAGONAL_BOTTOM_RIGHT;
  int64_t diagonal_offset = 0;
  int64_t window_left = -1, window_right = -1;
  int64_t first_keys = 0;
  int64_t chunk = 0;
  int64_t tree_size = 0;  // most tree keys of a request, with the tree and per-request kinds

  float scale = std::numeric_limits<float>::quiet_NaN();
  float softcap = 0.0f;
  int alibi = 0;  // 1: [h_q], 2: [b, h_q]
  BiasSpec bias = {}, mask = {};
  bool sink = false;
  float dropout_p = 0.0f;
  bool dropout_pointers = false;
  bool lse = true;

  uint32_t flags = 0;
  int32_t num_splits = 0;
  int64_t split_size = 0;
  int32_t num_threads = 0;
  float magnitude = 1.0f;  // of q; logits grow with it

  fa_direction direction = FA_FORWARD;
  GradientSpec gradients = {};

  int64_t value_dim() const { return d_v == 0 ? d : d_v; }
};

// Every forward case: those of cases_table.cpp, then those of cases_bench.cpp.
const std::vector<CaseSpec>& all_cases();
std::vector<CaseSpec> table_cases();
std::vector<CaseSpec> bench_cases();

// Every backward case (cases_backward.cpp): the forward table's rows that have a derivative, rows of its own, the benchmark's.
const std::vector<CaseSpec>& backward_cases();
// The backward of a forward case, with every gradient that it has. Keys come to lie contiguously and unshared, and are not split.
CaseSpec backward_of(const CaseSpec& spec);

// Does the problem carry seqused_q, seqused_k? Where a layout cannot tell the lengths otherwise it does.
inline bool uses_seqused_q(const CaseSpec& spec) {
  return spec.seqused_q || (spec.query_layout == QueryLayout::dense && !spec.lengths_q.empty());
}
inline bool uses_seqused_k(const CaseSpec& spec) {
  return spec.seqused_k || spec.key_layout == KeyLayout::paged || (spec.key_layout != KeyLayout::packed && !spec.lengths_k.empty());
}

// Effective lengths of each request.
std::vector<int64_t> query_lengths(const CaseSpec& spec);
std::vector<int64_t> key_lengths(const CaseSpec& spec);

// Additions and multiplications that exact attention needs for each visible pair of query row and key: 2 (d + d_v), and of a
// backward 2 (3 d + 2 d_v).
double flops(const CaseSpec& spec);

// Bytes that must move at least once: q, the keys and values inside the lengths, o; of a backward their gradients too.
double bytes(const CaseSpec& spec, fa_dtype dtype);

// Names of the features that a case uses: the rows of the coverage tables, forward and backward.
std::vector<std::string> features(const CaseSpec& spec);
const std::vector<std::string>& all_features();
const std::vector<std::string>& all_backward_features();

// One line that reproduces the case: every field that differs from its default.
std::string to_text(const CaseSpec& spec);
inline std::ostream& operator<<(std::ostream& out, const CaseSpec& spec) { return out << to_text(spec); }

// The dtypes of a set, as fa_dtype.
std::vector<fa_dtype> dtype_list(uint32_t dtypes);
const char* dtype_text(fa_dtype dtype);
int64_t element_bytes(fa_dtype dtype);

}  // namespace flash_attn::test
