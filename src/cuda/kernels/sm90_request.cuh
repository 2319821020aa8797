// A request as the Hopper kernel sees it: lengths and offsets read from the caller's arrays, every one clamped to the declared
// extents before use, so that hostile tables give wrong values and never touch memory outside the tensors.
#pragma once

#include "math/mask.h"
#include "ptx/tma.cuh"
#include "sm90_configs.h"

namespace flash_attn::cuda {

__device__ __forceinline__ int clamp_int(int x, int low, int high) { return min(max(x, low), high); }

struct Sm90Request {
  int q_row, s_q;           // first physical query row, rows
  int k_row, s_k, k_batch;  // first physical key row, keys, batch index into k and v
};

template <class Config>
__device__ __forceinline__ Sm90Request read_request(const Sm90ForwardParams& p, int batch) {
  Sm90Request r{0, p.max_s_q, 0, p.max_s_k, batch};
  if constexpr (Config::value.has_lengths) {
    if (p.cu_seqlens_q) {
      r.q_row = clamp_int(p.cu_seqlens_q[batch], 0, p.rows_q);
      r.s_q = clamp_int(p.cu_seqlens_q[batch + 1] - r.q_row, 0, min(p.max_s_q, p.rows_q - r.q_row));
    }
    if (p.seqused_q) r.s_q = clamp_int(p.seqused_q[batch], 0, r.s_q);
    int begin = 0, rows = p.max_s_k;
    if (p.cu_seqlens_k) {
      begin = clamp_int(p.cu_seqlens_k[batch], 0, p.rows_k);
      rows = clamp_int(p.cu_seqlens_k[batch + 1] - begin, 0, min(p.max_s_k, p.rows_k - begin));
      r.k_batch = 0;
    }
    if (p.seqused_k) rows = clamp_int(p.seqused_k[batch], 0, rows);
    const int padding = p.leftpad_k ? clamp_int(p.leftpad_k[batch], 0, rows) : 0;
    r.k_row = begin + padding;
    r.s_k = rows - padding;
    if (p.cache_batch_idx) r.k_batch = clamp_int(p.cache_batch_idx[batch], 0, p.k_batch - 1);
  }
  return r;
}

// Where a request's first row lies in a map. Plain maps are (column, row, head, batch, 1). With lengths they are (column, row,
// start, wrap, head): start counts the same rows as row, and wrap steps so far that kMapRows of it lead back round the address
// space. So row kMapRows - length + j, start first + length, wrap kMapRows is the address of row first + j; and it lies past the
// map's kMapRows rows, so that reads give zeros and writes are dropped, exactly when j >= length.
constexpr int kMapRows = 1 << 30;

template <class Config>
__device__ __forceinline__ MapPoint first_row(int row, int length, int head, int batch, int batch_rows) {
  if constexpr (Config::value.has_lengths)
    return {0, kMapRows - length, batch * batch_rows + row + length, kMapRows, head};
  else
    return {0, 0, head, batch, 0};
}

template <class Config>
__device__ __forceinline__ MaskRule read_rule(const Sm90ForwardParams& p, int batch, int s_q, int s_k) {
  MaskRule rule;
  rule.s_k = s_k;
  rule.delta =
      p.diagonal == 0 ? s_k - s_q : (p.diagonal == 1 ? 0 : (p.diagonal == 2 ? p.diagonal_offset : p.diagonal_offsets[batch]));
  rule.window_right = p.window_right;
  if constexpr (Config::value.mask == Sm90Mask::interval) {
    rule.window_left = p.window_left;
    rule.chunk = p.chunk;
  }
  rule.causal = p.mask_kinds ? p.mask_kinds[batch] == static_cast<int>(MaskKind::causal) : p.is_causal != 0;
  return rule;
}

}  // namespace flash_attn::cuda
