// The Hopper forward kernel's configuration, shared-memory layout and arguments: what host and device must agree on. A
// configuration holds what the machine code depends on; everything else is a parameter.
#pragma once

#include "cuda/kernels/configs.h"
#include "cuda/kernels/params.h"
#include "math/types.h"

namespace flash_attn::cuda {

// A tensor map, as the driver encodes it (CUtensorMap).
struct alignas(64) TensorMap {
  unsigned long long words[16];
};

struct Sm90ForwardConfig {
  DType dtype = DType::bf16;    // q, k, v
  DType o_dtype = DType::bf16;  // o
  int d = 128;                  // columns of the first product: head dim rounded up to 16
  int d_v = 128;                // columns of the second, likewise
  int row_d = 128;              // head dims as they are in memory, where threads read or write rows; else as above
  int row_d_v = 128;
  int groups = 2;    // consumer warp groups, 64 query rows each
  int tile_k = 128;  // keys per step
  int stages = 2;    // K and V tiles in flight
  KeyMask mask = KeyMask::none;
  bool is_scaled = false;  // scores are scaled before the softmax: scales that are not positive
  bool has_softcap = false;
  bool has_alibi = false;
  DType bias_dtype = DType::none;
  bool has_bool_mask = false;
  bool has_tree = false;
  bool has_dropout = false;
  bool has_lengths = false;      // per-request lengths or offsets are read on the device
  bool has_splits = false;       // writes partial results of key ranges
  bool is_paged = false;         // key tiles are put together from boxes of rows, each within a page
  bool gathers_q = false;        // threads read q and write o: stacked heads, splits, and what maps cannot describe
  bool gathers_k = false;        // threads read k and v
  bool row_warps = false;        // two warps beside the loader read q (gathers_q) and merge splits, where maps move k and v
  bool merges_splits = false;    // who finishes the last of a tile's splits merges them (has_splits, row_warps)
  bool reads_once = false;       // k and v serve one item each: caches need not keep them
  int access = 16;               // bytes that gathered rows are multiples of: 16, 8, 4 or 2
  bool o_pairs = true;           // gathered rows of o start at multiples of two elements
  bool shifts_units = false;     // rows gathered by aligned units of 16 bytes, and shifted (tile/loose_rows.cuh)
  bool is_dynamic = false;       // items drawn from a counter instead of dealt out, forth and back by turns
  bool rotates_rows = false;     // warp groups take turns at an item's rows, which see unequal numbers of keys
  bool takes_turns = false;      // warp groups issue their products one after the other
  int q_buffers = 2;             // query tiles held: with one, the next is loaded once this item's last scores are done
  bool shares_q_buffer = false;  // o is staged where q was
  int o_passes = 1;              // o is staged in so many parts, one after the other
  bool overlaps_tiles = true;    // the next item's first scores run behind this item's epilogue
  int polynomial_exp = 0;        // of every 8 weights, those made by products instead of the special function unit
  bool integer_tops = false;     // maxima by integer instructions, which take three operands
  int lazy_log2 = 8;             // O is rescaled when a maximum has grown by more than 2^lazy_log2
  int blocks_per_sm = 1;         // that registers leave room for
  int consumer_registers = 232;
  int producer_registers = 40;

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("dtype", dtype);
    visit("o_dtype", o_dtype);
    visit("d", d);
    visit("d_v", d_v);
    visit("row_d", row_d);
    visit("row_d_v", row_d_v);
    visit("groups", groups);
    visit("tile_k", tile_k);
    visit("stages", stages);
    visit("mask", mask);
    visit("is_scaled", is_scaled);
    visit("has_softcap", has_softcap);
    visit("has_alibi", has_alibi);
    visit("bias_dtype", bias_dtype);
    visit("has_bool_mask", has_bool_mask);
    visit("has_tree", has_tree);
    visit("has_dropout", has_dropout);
    visit("has_lengths", has_lengths);
    visit("has_splits", has_splits);
    visit("is_paged", is_paged);
    visit("gathers_q", gathers_q);
    visit("gathers_k", gathers_k);
    visit("row_warps", row_warps);
    visit("merges_splits", merges_splits);
    visit("reads_once", reads_once);
    visit("access", access);
    visit("o_pairs", o_pairs);
    visit("shifts_units", shifts_units);
    visit("is_dynamic", is_dynamic);
    visit("rotates_rows", rotates_rows);
    visit("takes_turns", takes_turns);
    visit("q_buffers", q_buffers);
    visit("shares_q_buffer", shares_q_buffer);
    visit("o_passes", o_passes);
    visit("overlaps_tiles", overlaps_tiles);
    visit("polynomial_exp", polynomial_exp);
    visit("integer_tops", integer_tops);
    visit("lazy_log2", lazy_log2);
    visit("blocks_per_sm", blocks_per_sm);
    visit("consumer_registers", consumer_registers);
    visit("producer_registers", producer_registers);
  }

  constexpr bool operator==(const Sm90ForwardConfig&) const = default;

  static constexpr int kSlab = 64;  // columns of a shared-memory slab: 128 bytes, one swizzle period
  static constexpr int kMostGroups = 3;
  static constexpr int kRowThreads = 64;  // of the row warps
  constexpr int tile_q() const { return 64 * groups; }
  constexpr int threads() const { return (groups + 1) * 128; }
  constexpr int slabs() const { return (d + kSlab - 1) / kSlab; }
  constexpr int slabs_v() const { return (d_v + kSlab - 1) / kSlab; }
  constexpr int o_slabs() const { return (slabs_v() + o_passes - 1) / o_passes; }  // of a pass
  // Threads of warp group 0 that load: one issues whole tiles, two warps the boxes of pages, all of them rows.
  constexpr int loaders() const { return (gathers_q && !row_warps) || gathers_k ? 128 : (is_paged ? 64 : 1); }
  // Warps of group 0 that make bits of boolean masks; without any, consumers read the bytes.
  constexpr int mask_warps() const {
    return has_bool_mask && loaders() < 128 && !row_warps && tile_k % 32 == 0 ? (is_paged ? 2 : 3) : 0;
  }
};

// Shared memory, in bytes from its 1024-byte aligned start. Tiles are slabs of 64 columns: [slab][row][64].
struct Sm90Layout {
  static constexpr int kItemBytes = 64;
  static constexpr int kMaskStages = 2;

  int q_group, q_all, k_tile, v_tile, o_group;
  int q, k, v, o;
  int q_full, q_empty, k_full, k_empty, v_full, v_empty, item_full, item_empty, items;
  int mask_tile, masks, mask_full, mask_empty;  // with mask_warps()
  int part_full;                                // with merges_splits
  int total;

  constexpr explicit Sm90Layout(const Sm90ForwardConfig& c)
      : q_group(64 * c.slabs() * 128),
        q_all(q_group * c.groups),
        k_tile(c.tile_k * c.slabs() * 128),
        v_tile(c.tile_k * c.slabs_v() * 128),
        o_group(64 * c.o_slabs() * 128),
        q(0),
        k(c.q_buffers * q_all),
        v(k + k_tile * c.stages),
        o(v + v_tile * c.stages),
        q_full(o + (c.shares_q_buffer || c.gathers_q ? 0 : o_group * c.groups)),
        q_empty(q_full + 16 * c.groups),
        k_full(q_empty + 16 * c.groups),
        k_empty(k_full + 8 * c.stages),
        v_full(k_empty + 8 * c.stages),
        v_empty(v_full + 8 * c.stages),
        item_full(v_empty + 8 * c.stages),
        item_empty(item_full + 16),
        items((item_empty + 16 + 15) / 16 * 16),
        mask_tile(c.mask_warps() == 0 ? 0 : (c.tile_k + 127) / 128 * c.tile_q() * 16),
        masks(items + 2 * kItemBytes),
        mask_full(masks + kMaskStages * mask_tile),
        mask_empty(mask_full + 8 * kMaskStages),
        part_full(c.mask_warps() == 0 ? masks : mask_empty + 8 * kMaskStages),
        total(part_full + (c.merges_splits ? 16 : 0)) {}
};

// What the Hopper kernel needs beside the parameters that the forward kernels share.
struct Sm90Extras {
  unsigned* counter = nullptr;             // [0] next item, [1] finished blocks; zero before and after (is_dynamic)
  int batch_rows_q = 0, batch_rows_k = 0;  // rows from one batch, or page, to the next (maps with lengths)
  int box_rows = 0;                        // rows of a box of k and v (is_paged); divides the page and the key tile
  int tile_boxes = 0;                      // boxes of a key tile
  // Of merged splits. Items' partial results are o [items][part_rows][d_v], not normalised, and behind it the maximum (log2 domain)
  // and the sum of each row [items][part_rows][2]; finished splits of each tile are counted, and zero before and after.
  int part_rows = 0;
  unsigned* finished = nullptr;
};

// The kernel's one argument.
struct Sm90ForwardArguments {
  TensorMap q, k, v, o;
  ForwardParams params;
  Sm90Extras extras;
};

}  // namespace flash_attn::cuda
