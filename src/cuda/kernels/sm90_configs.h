// The Hopper forward kernel's configuration and parameters: what host and device must agree on. A configuration holds what the
// machine code depends on; everything else is a parameter.
#pragma once

#include "math/types.h"

namespace flash_attn::cuda {

// A tensor map, as the driver encodes it (CUtensorMap).
struct alignas(64) TensorMap {
  unsigned long long words[16];
};

enum class Sm90Mask : int {
  none,      // only the request's end
  right,     // hidden from some key on: causal, diagonal offsets, right windows
  interval,  // hidden before some key too: left windows, chunks
};

struct Sm90ForwardConfig {
  DType dtype = DType::bf16;  // q, k, v, o
  int d = 128;                // columns of the first product: d rounded up to 16
  int d_v = 128;              // columns of the second: d_v rounded up to 16
  int groups = 2;             // consumer warp groups, 64 query rows each
  int tile_k = 128;           // keys per step
  int stages = 2;             // K and V tiles in flight
  Sm90Mask mask = Sm90Mask::none;
  bool has_softcap = false;
  bool has_alibi = false;
  bool has_lengths = false;      // per-request lengths or offsets are read on the device
  bool is_dynamic = false;       // tiles drawn from a counter instead of dealt out
  bool takes_turns = false;      // warp groups issue their products one after the other
  bool shares_q_buffer = false;  // o is staged where q was
  bool overlaps_tiles = true;    // the next tile's first scores run behind this tile's epilogue; takes a second q buffer
  int lazy_log2 = 8;             // O is rescaled when a maximum has grown by more than 2^lazy_log2
  int consumer_registers = 232;
  int producer_registers = 40;

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("dtype", dtype);
    visit("d", d);
    visit("d_v", d_v);
    visit("groups", groups);
    visit("tile_k", tile_k);
    visit("stages", stages);
    visit("mask", mask);
    visit("has_softcap", has_softcap);
    visit("has_alibi", has_alibi);
    visit("has_lengths", has_lengths);
    visit("is_dynamic", is_dynamic);
    visit("takes_turns", takes_turns);
    visit("shares_q_buffer", shares_q_buffer);
    visit("overlaps_tiles", overlaps_tiles);
    visit("lazy_log2", lazy_log2);
    visit("consumer_registers", consumer_registers);
    visit("producer_registers", producer_registers);
  }

  static constexpr int kSlab = 64;  // columns of a shared-memory slab: 128 bytes, one swizzle period
  constexpr int tile_q() const { return 64 * groups; }
  constexpr int threads() const { return (groups + 1) * 128; }
  constexpr int slabs() const { return (d + kSlab - 1) / kSlab; }
  constexpr int slabs_v() const { return (d_v + kSlab - 1) / kSlab; }
};

// Shared memory, in bytes from its 1024-byte aligned start. Tiles are slabs of 64 columns: [slab][row][64].
struct Sm90Layout {
  int q_group, q_all, k_tile, v_tile, o_group;
  int q, k, v, o;
  int q_full, q_empty, k_full, k_empty, v_full, v_empty, item_full, item_empty, items;
  int total;

  constexpr explicit Sm90Layout(const Sm90ForwardConfig& c)
      : q_group(64 * c.slabs() * 128),
        q_all(q_group * c.groups),
        k_tile(c.tile_k * c.slabs() * 128),
        v_tile(c.tile_k * c.slabs_v() * 128),
        o_group(64 * c.slabs_v() * 128),
        q(0),
        k((c.overlaps_tiles ? 2 : 1) * q_all),
        v(k + k_tile * c.stages),
        o(v + v_tile * c.stages),
        q_full(o + (c.shares_q_buffer ? 0 : o_group * c.groups)),
        q_empty(q_full + 16 * c.groups),
        k_full(q_empty + 16 * c.groups),
        k_empty(k_full + 8 * c.stages),
        v_full(k_empty + 8 * c.stages),
        v_empty(v_full + 8 * c.stages),
        item_full(v_empty + 8 * c.stages),
        item_empty(item_full + 16),
        items((item_empty + 16 + 15) / 16 * 16),
        total(items + 2 * 32) {}
};

struct Sm90ForwardParams {
  float* lse = nullptr;               // [b, h_q, s_q] by the axes below; nullable
  Axes lse_axes;                      // elements
  unsigned* counter = nullptr;        // [0] next tile, [1] finished blocks; zero before and after (is_dynamic)
  const float* sink = nullptr;        // [h_q]; nullable
  const float* alibi = nullptr;       // [b|1, h_q] (has_alibi)
  const int* cu_seqlens_q = nullptr;  // (has_lengths) each nullable, clamped to the extents below
  const int* cu_seqlens_k = nullptr;
  const int* seqused_q = nullptr;
  const int* seqused_k = nullptr;
  const int* leftpad_k = nullptr;
  const int* cache_batch_idx = nullptr;
  const int* mask_kinds = nullptr;
  const int* diagonal_offsets = nullptr;
  long long alibi_batch_stride = 0;
  long long window_left = -1, window_right = -1, chunk = 0, diagonal_offset = 0;
  int diagonal = 0;  // fa_diagonal
  int is_causal = 0;
  int b = 0, h_q = 0, h_k = 0;
  int rows_q = 0, rows_k = 0;              // rows that q and k hold: of a request when dense, of all when packed
  int max_s_q = 0, max_s_k = 0;            // longest request
  int batch_rows_q = 0, batch_rows_k = 0;  // rows from one batch to the next (has_lengths)
  int k_batch = 0;
  int tiles_q = 0;  // query tiles of the longest request
  int tiles = 0;    // tiles_q * h_q * b
  int section = 1;  // heads swept together, so that their keys stay in L2
  float scale = 1, scale_log2 = 1, softcap = 0;
};

// The kernel's one argument.
struct Sm90ForwardArguments {
  TensorMap q, k, v, o;
  Sm90ForwardParams params;
};

}  // namespace flash_attn::cuda
