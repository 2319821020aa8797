// What the machine code of the backward's small kernels depends on: what comes before the main kernel (row statistics), after it
// (conversion, sums over rows), and beside it (gradients of dead rows). Shared by all main kernels.
#pragma once

#include "cuda/kernels/configs.h"

namespace flash_attn::cuda {

constexpr int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

// Row statistics, zeroed sums, and dout in q's dtype where a main kernel needs that.
struct BackwardPreConfig {
  DType dtype = DType::bf16;    // q
  DType o_dtype = DType::bf16;  // o, dout
  int d_v = 128;
  int tile = 64;     // rows of a block: stat_tile
  int sums_d = 128;  // columns of a row of dq_sums; 0: there are none
  int access = 16;   // bytes that rows of o and dout are multiples of
  bool has_lengths = false;

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("dtype", dtype);
    visit("o_dtype", o_dtype);
    visit("d_v", d_v);
    visit("tile", tile);
    visit("sums_d", sums_d);
    visit("access", access);
    visit("has_lengths", has_lengths);
  }

  static constexpr int kWarps = 8;
  constexpr int threads() const { return kWarps * 32; }
  constexpr bool copies_dout() const { return o_dtype != dtype; }
  constexpr int copy_columns() const { return round_up(d_v, 8); }
};

// dq_sums to dq.
struct BackwardPostConfig {
  DType dq_dtype = DType::bf16;
  int d = 128;
  int tile = 64;  // rows of a block: stat_tile
  int sums_d = 128;
  int access = 16;  // bytes that rows of dq are multiples of
  bool accumulates = false;
  bool has_lengths = false;

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("dq_dtype", dq_dtype);
    visit("d", d);
    visit("tile", tile);
    visit("sums_d", sums_d);
    visit("access", access);
    visit("accumulates", accumulates);
    visit("has_lengths", has_lengths);
  }

  static constexpr int kWarps = 8;
  constexpr int threads() const { return kWarps * 32; }
};

// Zeros for gradient rows that lie outside the lengths, of the tensors that are overwritten.
struct BackwardDeadConfig {
  DType dq_dtype = DType::bf16, dk_dtype = DType::bf16, dv_dtype = DType::bf16;
  int d = 128, d_v = 128;
  bool clears_dq = true, clears_dk = true, clears_dv = true;
  bool clears_dbias = false;

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("dq_dtype", dq_dtype);
    visit("dk_dtype", dk_dtype);
    visit("dv_dtype", dv_dtype);
    visit("d", d);
    visit("d_v", d_v);
    visit("clears_dq", clears_dq);
    visit("clears_dk", clears_dk);
    visit("clears_dv", clears_dv);
    visit("clears_dbias", clears_dbias);
  }

  static constexpr int kWarps = 8;
  constexpr int threads() const { return kWarps * 32; }
};

// Sums over a head's rows, in a fixed order: d_sink, d_slopes.
struct BackwardHeadsConfig {
  bool has_lengths = false;

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    visit("has_lengths", has_lengths);
  }

  static constexpr int kWarps = 16;
  constexpr int threads() const { return kWarps * 32; }
  constexpr int shared_bytes() const { return kWarps * 4; }
};

}  // namespace flash_attn::cuda
