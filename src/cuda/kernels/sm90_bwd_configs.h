// The Hopper backward kernel's configuration, shared memory and argument: what host and device must agree on. A configuration holds
// what the machine code depends on; everything else is a parameter.
#pragma once

#include "cuda/kernels/backward_params.h"
#include "cuda/kernels/sm90_configs.h"

namespace flash_attn::cuda {

struct Sm90BackwardConfig {
  DType dtype = DType::bf16;  // q, k, v, o, dout
  int d = 128;                // columns of q and k, rounded up to 16
  int d_v = 128;              // columns of v, o and dout, rounded up to 16
  int tile_q = 64;            // query rows of a step, 64 or (narrow heads) 128
  KeyMask mask = KeyMask::none;
  bool has_softcap = false;
  bool has_alibi = false;
  bool has_dropout = false;
  bool has_lengths = false;       // per-request lengths or offsets are read on the device
  bool is_deterministic = false;  // sums of dq are added in the order of the key tiles
  int dq_lag = 1;                 // steps by which the product for dq stays behind: as far may the warp groups drift apart
  int dout_stages = 2;            // tiles of dout in flight, 1 where wide heads leave no room for more
  int polynomial_exp = 0;         // of every 8 weights, those made by products instead of the special function unit
  bool stages_dq = true;          // dq goes to memory by bulk additions from shared memory, else by vector additions from registers
  int consumer_registers = 240;
  int producer_registers = 24;

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("dtype", dtype);
    visit("d", d);
    visit("d_v", d_v);
    visit("tile_q", tile_q);
    visit("mask", mask);
    visit("has_softcap", has_softcap);
    visit("has_alibi", has_alibi);
    visit("has_dropout", has_dropout);
    visit("has_lengths", has_lengths);
    visit("is_deterministic", is_deterministic);
    visit("dq_lag", dq_lag);
    visit("dout_stages", dout_stages);
    visit("polynomial_exp", polynomial_exp);
    visit("stages_dq", stages_dq);
    visit("consumer_registers", consumer_registers);
    visit("producer_registers", producer_registers);
  }

  static constexpr int kSlab = 64;       // columns of a shared-memory slab: 128 bytes, one swizzle period
  static constexpr int kStages = 2;      // tiles of q in flight
  static constexpr int kGroups = 2;      // consumer warp groups
  static constexpr int kGroupKeys = 64;  // keys that a warp group's products have as rows
  static constexpr int kThreads = 384;
  // Whether the warp groups work on the same keys, one making dv, one dk: heads are too wide for both in one thread. So they are
  // beside the 96 registers that scores and weights of a tall tile take, and shared memory is too small for such tiles of P as
  // well.
  constexpr bool is_wide() const {
    const bool is_tall = d <= kSlab;
    return d > 128 || d_v > 128 || (is_tall && (d / 2 + d_v / 2 + d / 2 > 208 - 96 || (has_dropout && d_v > kSlab)));
  }
  constexpr int tile_k() const { return is_wide() ? kGroupKeys : kGroups * kGroupKeys; }  // keys of a block
  constexpr int ds_stages() const { return 2 + dq_lag; }
  // Tiles of P: one that goes from one warp group to the other, or with dropout each warp group's own, since dS is a multiple of
  // weights that dV has not.
  constexpr int p_tiles() const { return is_wide() ? 1 : has_dropout ? kGroups : 0; }
  constexpr int slabs() const { return (d + kSlab - 1) / kSlab; }
  constexpr int slabs_v() const { return (d_v + kSlab - 1) / kSlab; }
  // A warp group makes 64 rows of dq by at most 64 columns at a time: half of the rows, or all rows and a slab of columns. Of wide
  // heads it makes every second slab, one after the other.
  constexpr int dq_columns() const { return d < kSlab ? d : kSlab; }
  constexpr bool splits_rows() const { return tile_q == 128; }
  constexpr int dq_slabs(int group) const { return is_wide() ? (slabs() + kGroups - 1 - group) / kGroups : 1; }
  constexpr int dq_groups() const { return dq_slabs(1) > 0 ? 2 : 1; }
};

// Shared memory, in bytes from its 1024-byte aligned start. Tiles are slabs of 64 columns, [slab][row][64]; dS is [64 keys][query]
// [64]. P is of one thread after the other, four words at a time.
struct Sm90BackwardLayout {
  int k_tile, v_tile, q_tile, dout_tile, ds_tile, p_tile, part;
  int k, v, q, dout, ds, p, dq, lse, delta;
  int k_full, v_full, q_full, q_empty, dout_full, dout_empty, ds_full, ds_empty, p_full, dq_full, dq_empty, task, clear, limits,
      alibi, dropout, heads;
  int total;

  constexpr explicit Sm90BackwardLayout(const Sm90BackwardConfig& c)
      : k_tile(c.tile_k() * c.slabs() * 128),
        v_tile(c.tile_k() * c.slabs_v() * 128),
        q_tile(c.tile_q * c.slabs() * 128),
        dout_tile(c.tile_q * c.slabs_v() * 128),
        ds_tile(c.tile_q * c.tile_k() * 2),
        p_tile(c.tile_q * c.kGroupKeys * 2),
        part(64 * c.dq_columns() * 4),
        k(0),
        v(k + k_tile),
        q(v + v_tile),
        dout(q + c.kStages * q_tile),
        ds(dout + c.dout_stages * dout_tile),
        p(ds + c.ds_stages() * ds_tile),
        dq(p + c.p_tiles() * p_tile),
        lse(dq + (c.stages_dq ? 2 * part : 0)),
        delta(lse + c.kStages * c.tile_q * 4),
        k_full(delta + c.dout_stages * c.tile_q * 4),
        v_full(k_full + 8),
        q_full(v_full + 8),
        q_empty(q_full + 8 * c.kStages),
        dout_full(q_empty + 8 * c.kStages),
        dout_empty(dout_full + 8 * c.dout_stages),
        ds_full(dout_empty + 8 * c.dout_stages),
        ds_empty(ds_full + 8 * c.ds_stages()),
        p_full(ds_empty + 8 * c.ds_stages()),
        dq_full(p_full + 8),
        dq_empty(dq_full + 8 * c.kGroups),
        task((dq_empty + 8 * c.kGroups + 15) / 16 * 16),
        clear(task + 64),
        limits(clear + 8 * c.kGroups),
        alibi(limits + 16 * 128 * c.kGroups),
        dropout(alibi + (c.has_alibi ? 8 * 128 * c.kGroups : 0)),
        heads(dropout + (c.has_dropout ? 8 : 0)),
        total(heads + (c.has_dropout ? 4 * 128 * c.kGroups : 0)) {}
};

// The kernel's one argument. Blocks are numbered section by section of key heads; in a section, key tile by key tile.
struct Sm90BackwardArguments {
  TensorMap q, k, v, dout, dk, dv;
  BackwardParams params;
  int h_k = 0, group = 1;                                        // key heads; query heads of each
  int tiles_k = 0;                                               // key tiles of the longest request
  int units = 0;                                                 // requests * key heads
  int section = 1;                                               // units swept together, so that their queries stay in L2
  int batch_rows_q = 0, batch_rows_k = 0;                        // rows from one batch to the next (has_lengths)
  float scale_log2 = 1;                                          // scale * log2(e)
  float scale_over_cap = 0, cap_log2 = 0, inverse_cap_log2 = 0;  // scale / softcap, softcap * log2(e), its inverse (has_softcap)
  unsigned* turns = nullptr;  // [h_q, stat_rows / tile_q]: key tiles added to the sums of dq so far (is_deterministic)
};

}  // namespace flash_attn::cuda
