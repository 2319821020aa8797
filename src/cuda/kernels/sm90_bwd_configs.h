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
  int tile_q = 64;            // query rows of a step, 64 or 128
  Sm90Mask mask = Sm90Mask::none;
  bool has_softcap = false;
  bool has_alibi = false;
  bool has_lengths = false;       // per-request lengths or offsets are read on the device
  bool is_deterministic = false;  // sums of dq are added in the order of the key tiles
  int dq_columns = 32;            // columns of dq that are made at once, 32 or 64
  bool splits_dp = false;         // dP of a step is made in two halves, one after the other, to save registers
  bool stages_dq = true;          // dq goes to memory by bulk additions from shared memory, else by vector additions from registers
  bool writes_sums = false;       // dk and dv leave as fp32 sums, one slice per part of a head group, instead of finished rows
  int consumer_registers = 224;
  int reducer_registers = 56;

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("dtype", dtype);
    visit("d", d);
    visit("d_v", d_v);
    visit("tile_q", tile_q);
    visit("mask", mask);
    visit("has_softcap", has_softcap);
    visit("has_alibi", has_alibi);
    visit("has_lengths", has_lengths);
    visit("is_deterministic", is_deterministic);
    visit("dq_columns", dq_columns);
    visit("splits_dp", splits_dp);
    visit("stages_dq", stages_dq);
    visit("writes_sums", writes_sums);
    visit("consumer_registers", consumer_registers);
    visit("reducer_registers", reducer_registers);
  }

  static constexpr int kSlab = 64;    // columns of a shared-memory slab: 128 bytes, one swizzle period
  static constexpr int kStages = 2;   // tiles of q, dout and dS in flight
  static constexpr int kGroups = 2;   // consumer warp groups
  static constexpr int kTileK = 128;  // keys of a block, 64 per consumer warp group
  static constexpr int kThreads = 384;
  constexpr int slabs() const { return (d + kSlab - 1) / kSlab; }
  constexpr int slabs_v() const { return (d_v + kSlab - 1) / kSlab; }
};

// Shared memory, in bytes from its 1024-byte aligned start. Tiles are slabs of 64 columns, [slab][row][64]; dS is [warp group's 64
// keys][query][64].
struct Sm90BackwardLayout {
  int k_tile, v_tile, q_tile, dout_tile, ds_tile, part;
  int k, v, q, dout, ds, dq, lse, delta;
  int k_full, v_full, q_full, q_empty, dout_full, dout_empty, ds_full, ds_empty, task, limits, alibi;
  int total;

  constexpr explicit Sm90BackwardLayout(const Sm90BackwardConfig& c)
      : k_tile(c.kTileK * c.slabs() * 128),
        v_tile(c.kTileK * c.slabs_v() * 128),
        q_tile(c.tile_q * c.slabs() * 128),
        dout_tile(c.tile_q * c.slabs_v() * 128),
        ds_tile(c.tile_q * c.kTileK * 2),
        part(64 * c.dq_columns * 4),
        k(0),
        v(k + k_tile),
        q(v + v_tile),
        dout(q + c.kStages * q_tile),
        ds(dout + c.kStages * dout_tile),
        dq(ds + c.kStages * ds_tile),
        lse(dq + (c.stages_dq ? 2 * part : 0)),
        delta(lse + c.kStages * c.tile_q * 4),
        k_full(delta + c.kStages * c.tile_q * 4),
        v_full(k_full + 8),
        q_full(v_full + 8),
        q_empty(q_full + 8 * c.kStages),
        dout_full(q_empty + 8 * c.kStages),
        dout_empty(dout_full + 8 * c.kStages),
        ds_full(dout_empty + 8 * c.kStages),
        ds_empty(ds_full + 8 * c.kStages),
        task((ds_empty + 8 * c.kStages + 15) / 16 * 16),
        limits(task + 80),
        alibi(limits + 16 * 128 * c.kGroups),
        total(alibi + (c.has_alibi ? 8 * 128 * c.kGroups : 0)) {}
};

// The kernel's one argument. Blocks are numbered section by section of key heads; in a section, key tile by key tile.
struct Sm90BackwardArguments {
  TensorMap q, k, v, dout, dk, dv;
  BackwardParams params;
  int h_k = 0, group = 1;                                        // key heads; query heads of each
  int tiles_k = 0;                                               // key tiles of the longest request
  int units = 0;                                                 // requests * key heads * group_parts
  int section = 1;                                               // units swept together, so that their queries stay in L2
  int group_parts = 1;                                           // blocks among which a group's query heads are shared out
  int batch_rows_q = 0, batch_rows_k = 0;                        // rows from one batch to the next (has_lengths)
  float scale_log2 = 1;                                          // scale * log2(e)
  float scale_over_cap = 0, cap_log2 = 0, inverse_cap_log2 = 0;  // scale / softcap, softcap * log2(e), its inverse (has_softcap)
  unsigned* turns = nullptr;  // [h_q, stat_rows / tile_q]: key tiles added to the sums of dq so far (is_deterministic)
  float* dk_sums = nullptr;   // [group_parts, b * h_k, tiles_k * 128, d] in accumulator order (writes_sums)
  float* dv_sums = nullptr;
};

}  // namespace flash_attn::cuda
