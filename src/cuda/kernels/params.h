// What the forward kernels receive at launch: pointers, strides, extents and scalars of one run. Plain data, the same on host and
// device.
#pragma once

#include "math/types.h"

namespace flash_attn::cuda {

// Division of 0 <= n < 2^31 by a divisor known at launch: one wide multiplication and a shift.
struct Divisor {
  unsigned value = 1;
  unsigned multiplier = 1u << 31;
  unsigned shift = 31;
};

FA_HOST_DEVICE Divisor make_divisor(unsigned value) {
  unsigned log2 = 0;
  while (log2 < 31 && (1u << log2) < value) ++log2;
  Divisor divisor;
  divisor.value = value;
  divisor.shift = 31 + log2;
  divisor.multiplier = static_cast<unsigned>(((1ull << divisor.shift) + value - 1) / value);
  return divisor;
}

FA_HOST_DEVICE int divide(int n, const Divisor& by) {
  return static_cast<int>((static_cast<unsigned long long>(static_cast<unsigned>(n)) * by.multiplier) >> by.shift);
}

enum class KeySource : int { contiguous, paged, pointers };
enum class DiagonalKind : int { bottom_right, top_left, offset, offset_per_request };

struct ForwardParams {
  const char* q = nullptr;  // [b, s_q, h_q, d] through the axes, in elements; packed: [total_q, h_q, d]
  const char* k = nullptr;  // [k_batch, k_rows, h_k, d]; packed: [k_rows, h_k, d]; paged: [num_pages, page_size, h_k, d]
  const char* v = nullptr;  // likewise, last dimension d_v
  char* o = nullptr;        // [b, s_q, h_q, d_v] or packed
  float* lse = nullptr;     // [b, h_q, s_q] or packed [h_q, total_q]; nullable
  Axes q_axes, k_axes, v_axes, o_axes, lse_axes;

  const int* cu_seqlens_q = nullptr;  // [b + 1]; nullable, as are all of these; values are clamped to the extents below
  const int* cu_seqlens_k = nullptr;  // [b + 1]
  const int* seqused_q = nullptr;     // [b], and so on
  const int* seqused_k = nullptr;
  const int* leftpad_k = nullptr;
  const int* cache_batch_idx = nullptr;
  const int* mask_kinds = nullptr;
  const int* diagonal_offsets = nullptr;
  const int* tree_sizes = nullptr;
  const int* block_table = nullptr;     // [b, max_pages]
  const void* const* k_ptrs = nullptr;  // [b]
  const void* const* v_ptrs = nullptr;

  long long block_table_stride = 0;
  Divisor page_size;
  int num_pages = 0;
  KeySource key_source = KeySource::contiguous;

  int b = 0;
  int max_s_q = 0;  // longest request
  int max_s_k = 0;
  int total_q = 0;  // rows of a packed q
  int k_rows = 0;   // rows of a packed k
  int k_batch = 0;  // cache rows

  // A row of a tile is query i = row / pack of head slot * pack + row % pack: all query heads of a key head share the tile.
  int slots = 0;       // h_k when packed so, else h_q
  Divisor pack;        // h_q / slots
  Divisor slot_group;  // slots / h_k

  long long window_left = -1, window_right = -1;
  long long first_keys = 0, chunk = 0;
  long long diagonal_offset = 0;
  DiagonalKind diagonal = DiagonalKind::bottom_right;
  MaskKind mask_kind = MaskKind::full;

  float scale = 1;
  float softcap = 0;
  float inverse_cap = 0;         // scale / softcap, with a softcap
  const float* sink = nullptr;   // [h_q]; nullable
  const float* alibi = nullptr;  // [b|1, h_q]
  long long alibi_batch_stride = 0;
  const char* bias = nullptr;  // [b|1, h_q|1, s_q|1, s_k|1]
  BiasAxes bias_axes;
  const unsigned char* bool_mask = nullptr;  // likewise
  BiasAxes mask_axes;
  const unsigned long long* tree = nullptr;  // [b, s_q, tree_words] or packed
  long long tree_batch_stride = 0, tree_row_stride = 0;
  int tree_words = 0;

  unsigned dropout_threshold = 0;
  float keep_scale = 1;  // 1 / (1 - p), applied to o
  unsigned long long dropout_seed = 0, dropout_offset = 0;
  const unsigned long long* dropout_seed_ptr = nullptr;  // nullable: read instead of the values
  const unsigned long long* dropout_offset_ptr = nullptr;

  // A run is cut into items: (request, slot, query tile, split). Heads are swept `section` at a time so that their keys stay in
  // cache.
  int items = 0;
  Divisor splits;
  Divisor tiles_q;  // query tiles of the longest request
  int heads = 0;    // b * slots
  int section = 1;
  Divisor section_items;     // query tiles of a section: section * tiles_q
  Divisor section_heads[2];  // its heads, and those of the last one, which may have fewer
  Divisor request_heads;     // slots
  int split_keys = 0;        // keys of a split, a multiple of the tile; 0: the request's keys over `splits`
  // Partial results of item n: o [tile_q, d_v] not normalised, then the maximum [tile_q] (log2 domain) and the sum [tile_q].
  float* partials = nullptr;
  int combine_groups = 1;  // blocks that merge the rows of one tile
};

}  // namespace flash_attn::cuda
