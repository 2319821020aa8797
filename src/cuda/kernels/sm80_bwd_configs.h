// What the machine code of the mma.sync backward kernel depends on, for the host that chooses and the device that is specialised by
// it. Never lengths, batch, heads, window, scale or strides: those are parameters (backward_params.h).
#pragma once

#include "cuda/kernels/backward_configs.h"

namespace flash_attn::cuda {

// What a block owns and makes. One program holds them all, as they share the way to dS.
enum class BackwardRole : int {
  keys,     // a key tile: dk and dv, and with sums_dq its part of dq, added to fp32 sums
  queries,  // a query tile: dq
  bias,     // a tile of d_bias
  slopes,   // a query tile: d_slopes, row by row
  renew     // query tiles whose lse is too large for its last bit: their rows' largest score and denominator
};

struct Sm80BackwardConfig {
  BackwardRole role = BackwardRole::keys;
  DType dtype = DType::bf16;  // q, k, v, and dout as it is read; f32 is multiplied on the CUDA cores
  int d = 128;                // exact; inside, rows are padded with zeros
  int d_v = 128;
  int tile_q = 64;
  int tile_k = 128;
  int warps = 8;
  int score_warps = 2;  // of them along the queries of a tile of scores; the others along its keys
  int key_warps = 4;    // along the keys of dk and dv; the others along their columns
  int query_warps = 2;  // along the queries of dq; likewise
  int stat_tile = 64;   // rows behind one flag of the statistics
  int stages = 2;       // tiles of the operand that is walked over: one being read, one on its way
  // Steps of 16 of a product that are laid out one after the other: of scores and dout V^T; of dk, dv and the role's dq; of
  // sums_dq.
  int unroll_scores = 4, unroll = 2, unroll_dq = 2;
  int blocks_per_sm = 1;  // that registers must leave room for
  int access = 16;        // bytes that rows of q, k, v and dout are multiples of
  KeyMask mask = KeyMask::none;
  bool has_softcap = false;
  bool has_alibi = false;
  DType bias_dtype = DType::none;
  bool has_bool_mask = false;
  bool has_tree = false;
  bool has_dropout = false;
  bool has_lengths = false;
  bool loops_items = false;  // there are fewer blocks than items
  bool walks_back = false;   // role keys: query tiles from the last one on
  bool copies_dout = false;  // dout is read from the workspace
  bool sums_dq = false;
  DType first_dtype = DType::bf16;   // of dk, or of dq
  DType second_dtype = DType::bf16;  // of dv
  bool adds_first = false, adds_second = false;
  int gradient_access = 16;  // bytes that rows of the gradients are multiples of

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("role", role);
    visit("dtype", dtype);
    visit("d", d);
    visit("d_v", d_v);
    visit("tile_q", tile_q);
    visit("tile_k", tile_k);
    visit("warps", warps);
    visit("score_warps", score_warps);
    visit("key_warps", key_warps);
    visit("query_warps", query_warps);
    visit("stat_tile", stat_tile);
    visit("stages", stages);
    visit("unroll_scores", unroll_scores);
    visit("unroll", unroll);
    visit("unroll_dq", unroll_dq);
    visit("blocks_per_sm", blocks_per_sm);
    visit("access", access);
    visit("mask", mask);
    visit("has_softcap", has_softcap);
    visit("has_alibi", has_alibi);
    visit("bias_dtype", bias_dtype);
    visit("has_bool_mask", has_bool_mask);
    visit("has_tree", has_tree);
    visit("has_dropout", has_dropout);
    visit("has_lengths", has_lengths);
    visit("loops_items", loops_items);
    visit("walks_back", walks_back);
    visit("copies_dout", copies_dout);
    visit("sums_dq", sums_dq);
    visit("first_dtype", first_dtype);
    visit("second_dtype", second_dtype);
    visit("adds_first", adds_first);
    visit("adds_second", adds_second);
    visit("gradient_access", gradient_access);
  }

  constexpr bool operator==(const Sm80BackwardConfig&) const = default;

  constexpr int threads() const { return warps * 32; }
  constexpr int element_bytes() const { return dtype == DType::f32 ? 4 : 2; }
  // Divisible among the warps that share the columns of a gradient.
  constexpr int padded_d() const { return round_up(d, kColumnUnit); }
  constexpr int padded_d_v() const { return round_up(d_v, kColumnUnit); }
  constexpr int row_bytes() const { return padded_d() * element_bytes(); }
  constexpr int row_bytes_v() const { return padded_d_v() * element_bytes(); }
  constexpr int score_row_bytes() const { return tile_k * element_bytes(); }

  // A warp's part of the scores, in strips of 16 queries and tiles of 8 keys; of dk and dv, strips of keys and tiles of columns; of
  // dq, strips of queries and tiles of columns.
  constexpr int score_strips() const { return tile_q / (16 * score_warps); }
  constexpr int score_tiles() const { return tile_k / (8 * (warps / score_warps)); }
  constexpr int key_strips() const { return tile_k / (16 * key_warps); }
  constexpr int dk_tiles() const { return padded_d() / (8 * (warps / key_warps)); }
  constexpr int dv_tiles() const { return padded_d_v() / (8 * (warps / key_warps)); }
  constexpr int query_strips() const { return tile_q / (16 * query_warps); }
  constexpr int dq_tiles() const { return padded_d() / (8 * (warps / query_warps)); }

  // Shared memory: Q and dO tiles, K and V tiles, the weights, dS, and the rows' statistics. What a block owns has one tile, what
  // it walks over `stages`; the other roles walk over both, one at a time.
  constexpr bool walks_queries() const { return role == BackwardRole::keys; }
  constexpr bool reduces_rows() const { return role == BackwardRole::slopes || role == BackwardRole::renew; }
  constexpr int query_stages() const { return walks_queries() ? stages : 1; }
  constexpr int key_stages() const { return walks_queries() ? 1 : stages; }
  constexpr int dout_at() const { return query_stages() * tile_q * row_bytes(); }
  constexpr int k_at() const { return dout_at() + query_stages() * tile_q * row_bytes_v(); }
  constexpr int v_at() const { return k_at() + key_stages() * tile_k * row_bytes(); }
  constexpr int weights_at() const { return v_at() + key_stages() * tile_k * row_bytes_v(); }
  constexpr int ds_at() const { return weights_at() + (role == BackwardRole::keys ? tile_q * score_row_bytes() : 0); }
  constexpr int stats_at() const {
    return ds_at() + (role == BackwardRole::keys || role == BackwardRole::queries ? tile_q * score_row_bytes() : 0);
  }
  constexpr int sums_at() const { return stats_at() + query_stages() * tile_q * 8; }  // fp32, over everything else for d_bias
  constexpr int shared_bytes() const {
    if (role == BackwardRole::bias) return sums_at() > tile_q * tile_k * 4 ? sums_at() : tile_q * tile_k * 4;
    return sums_at() + (reduces_rows() ? tile_q * (warps / score_warps) * 8 : 0);
  }

  static constexpr int kColumnUnit = 32;
};

}  // namespace flash_attn::cuda
