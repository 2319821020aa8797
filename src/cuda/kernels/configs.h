// What the machine code of the mma.sync forward kernel depends on, for the host that chooses and the device that is specialised by
// it. Never lengths, batch, heads, page size, window, scale or strides: those are parameters (params.h).
#pragma once

#include "math/types.h"

namespace flash_attn::cuda {

// Which limits a query row's keys have beside the request's end.
enum class KeyMask : int {
  none,
  right,    // hidden from some key on: causal, diagonal offsets, right windows
  interval  // hidden before some key too: left windows, chunks; first keys stay visible
};

// Shared memory rows are runs of 16-byte chunks. Eight rows that ldmatrix reads at one column must lie in different banks: chunk c
// of row r is stored at c ^ ((r >> shift) & mask).
struct RowSwizzle {
  int shift;
  int mask;
};
constexpr RowSwizzle row_swizzle(int chunks) {
  if (chunks % 8 == 0) return {0, 7};
  if (chunks % 4 == 0) return {1, 3};
  return {2, 1};
}

struct Sm80ForwardConfig {
  DType dtype = DType::bf16;    // q, k, v; f32 is multiplied on the CUDA cores
  DType o_dtype = DType::bf16;  // o
  int d = 128;                  // exact; inside, rows are padded with zeros
  int d_v = 128;
  int tile_q = 128;  // query rows of a block
  int tile_k = 64;   // keys per step
  int warps = 4;
  int columns = 1;             // warps that share rows: each has a part of a step's keys for the scores, of d_v for the values
  int blocks_per_sm = 1;       // that registers must leave room for
  int access = 16;             // bytes that rows of q, k and v are multiples of: 16, 8, 4 or the element size
  bool lags_values = false;    // a step's values are added in the next step, beside that one's scores
  bool keeps_queries = false;  // in registers
  bool o_pairs = true;         // rows of o start at multiples of two elements
  bool o_chunks = false;       // rows of o are runs of whole 16-byte chunks
  KeyMask mask = KeyMask::none;
  bool is_scaled = false;  // scores are finished before the softmax: all below that change them, and scales that are not positive
  bool has_softcap = false;
  bool has_alibi = false;
  DType bias_dtype = DType::none;
  bool has_bool_mask = false;
  bool has_tree = false;
  bool has_dropout = false;
  bool is_paged = false;
  bool has_lengths = false;  // lengths, offsets, indices or pointers of requests are read on the device
  bool has_splits = false;   // writes partial results of key ranges

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("dtype", dtype);
    visit("o_dtype", o_dtype);
    visit("d", d);
    visit("d_v", d_v);
    visit("tile_q", tile_q);
    visit("tile_k", tile_k);
    visit("warps", warps);
    visit("columns", columns);
    visit("blocks_per_sm", blocks_per_sm);
    visit("access", access);
    visit("lags_values", lags_values);
    visit("keeps_queries", keeps_queries);
    visit("o_pairs", o_pairs);
    visit("o_chunks", o_chunks);
    visit("mask", mask);
    visit("is_scaled", is_scaled);
    visit("has_softcap", has_softcap);
    visit("has_alibi", has_alibi);
    visit("bias_dtype", bias_dtype);
    visit("has_bool_mask", has_bool_mask);
    visit("has_tree", has_tree);
    visit("has_dropout", has_dropout);
    visit("is_paged", is_paged);
    visit("has_lengths", has_lengths);
    visit("has_splits", has_splits);
  }

  constexpr bool operator==(const Sm80ForwardConfig&) const = default;

  constexpr int threads() const { return warps * 32; }
  constexpr int element_bytes() const { return dtype == DType::f32 ? 4 : 2; }
  constexpr int padded_d() const { return (d + 15) / 16 * 16; }
  constexpr int padded_d_v() const { return (d_v + 15) / 16 * 16; }
  constexpr int row_bytes() const { return padded_d() * element_bytes(); }
  constexpr int row_bytes_v() const { return padded_d_v() * element_bytes(); }
  // Strips of 16 rows that a warp owns.
  constexpr int strips() const { return tile_q * columns / (16 * warps); }

  // Shared memory: Q, the K tiles, the V tiles, where a paged tile's rows lie, what warps of a row exchange (two steps' weights and
  // one number a row of each), the item, and what is kept of its keys.
  constexpr int k_at() const { return tile_q * row_bytes(); }
  constexpr int v_at() const { return k_at() + kStages * tile_k * row_bytes(); }
  constexpr int slots_at() const { return v_at() + kStages * tile_k * row_bytes_v(); }
  constexpr int weights_at() const { return slots_at() + (is_paged ? kSlotTiles * tile_k * 8 : 0); }
  constexpr int numbers_at() const { return weights_at() + (columns > 1 ? 2 * tile_q * tile_k * 2 : 0); }
  constexpr int item_at() const { return numbers_at() + (columns > 1 ? columns * tile_q * 4 : 0); }
  constexpr int facts_at() const { return item_at() + 8; }
  constexpr int shared_bytes() const { return facts_at() + 24; }

  static constexpr int kStages = 2;     // K and V tiles: one being read, one on its way
  static constexpr int kSlotTiles = 3;  // tiles whose page lookups are kept
};

// Merges the partial results that a config with has_splits writes.
struct CombineConfig {
  DType o_dtype = DType::bf16;
  int d_v = 128;
  int tile_q = 64;
  bool has_lengths = false;

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("o_dtype", o_dtype);
    visit("d_v", d_v);
    visit("tile_q", tile_q);
    visit("has_lengths", has_lengths);
  }

  static constexpr int kWarps = 4;
  constexpr int threads() const { return kWarps * 32; }
};

}  // namespace flash_attn::cuda
