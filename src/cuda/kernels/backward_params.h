// What the backward kernels receive at launch: a forward's parameters, the gradients beside them, and the workspace through which
// the kernels of one run speak to each other. Plain data, the same on host and device.
#pragma once

#include "cuda/kernels/params.h"

namespace flash_attn::cuda {

// Up to here a weight from the forward's lse is as good as one from a new softmax: beyond it the last bit of lse, and that of its
// product with log2(e), show.
constexpr float largest_lse(DType dtype) { return dtype == DType::f32 ? 64.0f : 512.0f; }

// Of the forward's parameters o and lse are inputs here, slots is h_q and pack is 1: a tile holds rows of one query head. Keys are
// contiguous, and request r uses row r of a dense k.
struct BackwardParams : ForwardParams {
  const char* dout = nullptr;  // [b, s_q, h_q, d_v] or packed, o's dtype
  Axes dout_axes;
  const float* dlse = nullptr;  // as lse; nullable
  Axes dlse_axes;
  char* dq = nullptr;  // shapes of q, k, v
  char* dk = nullptr;
  char* dv = nullptr;
  Axes dq_axes, dk_axes, dv_axes;
  float* dbias = nullptr;  // [b|1, h_q|1, s_q|1, s_k|1] or packed; stride 0 where it is summed; nullable, as are all of these
  BiasAxes dbias_axes;
  int dbias_batches = 0, dbias_heads = 0, dbias_rows = 0, dbias_columns = 0;  // its extents
  // Tiles of dbias that have a block of their own; 1 where requests, heads, rows or keys are summed. Packed rows that are not
  // summed are tiled by request.
  int bias_requests = 0, bias_heads = 0, bias_row_tiles = 0, bias_key_tiles = 0;
  float* dsink = nullptr;    // [h_q]
  float* dslopes = nullptr;  // [b|1, h_q]
  long long dslopes_batch_stride = 0;
  int dslopes_rows = 0;

  int key_extent = 0;  // rows of each request of a dense k, used or not

  // Rows of the workspace. Those of request r, head h begin at row h * stat_rows + first_stat_row(r), which is a multiple of
  // stat_tile; as many as round s_q up to a multiple of stat_tile are the request's own. All of it is written by bwd_pre, and what
  // lies behind s_q such that a tile of zeros with it adds nothing: lse2 +inf, delta 0.
  long long stat_rows = 0;
  int stat_tile = 0;
  float* row_lse2 = nullptr;   // [h_q, stat_rows]: lse * log2(e); +inf for a row without a visible key
  float* row_delta = nullptr;  // [h_q, stat_rows]: sum of o * dout, less dlse
  // [h_q, stat_rows / stat_tile]: not 0 where the last bit of some row's lse would show in its weights (|lse| > largest_lse). Then
  // bwd_renew, which a main kernel may bring along, makes row_top and row_log of the tile's rows from the scores as they are made
  // here: a weight is exp2((score - row_top) - row_log), in the log2 domain.
  int* large_tiles = nullptr;
  float* row_top = nullptr;  // [h_q, stat_rows]: the largest score; where scores are but scaled, the product that gives it
  float* row_log = nullptr;  // [h_q, stat_rows]: log2 of the sum of exp2(score - row_top), the sink's included
  // [h_q, stat_rows, d rounded up], fp32 sums of dS K, which bwd_pre zeroes and bwd_post scales and converts. In runs of 16 rows by
  // 8 columns, row by row of runs: element (i, c) of a run at 4 * (i % 8 * 4 + c % 8 / 2) + i / 8 * 2 + c % 2, as an accumulator of
  // mma.sync (or a warp's of wgmma) holds it. Null where dq is written at once.
  float* dq_sums = nullptr;
  char* dout_copy = nullptr;    // dout in q's dtype, [h_q, stat_rows, d_v rounded up to 8], where o has another dtype
  float* row_slopes = nullptr;  // [h_q, stat_rows]: d(slope) of one row
  int stat_tiles = 0;           // tiles of stat_tile rows that the longest request has
};

}  // namespace flash_attn::cuda
