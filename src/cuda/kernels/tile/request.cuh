// Lengths, offsets and indices of a request as the device reads them. Nothing here is trusted: every value is clamped to the extent
// that the description declared, so that a wrong table gives wrong values but no access outside the tensors.
#pragma once

#include "cuda/kernels/params.h"
#include "cuda/kernels/tile/work.cuh"
#include "math/seqlen.h"

namespace flash_attn::cuda {

struct QueryRows {
  int first, count;
};

__device__ __forceinline__ QueryRows query_rows(const ForwardParams& p, int r) {
  QueryRows rows{0, p.max_s_q};
  if (p.cu_seqlens_q) {
    rows.first = clamp_int(p.cu_seqlens_q[r], 0, p.total_q);
    const int end = clamp_int(p.cu_seqlens_q[r + 1], rows.first, p.total_q);
    rows.count = min(end - rows.first, p.max_s_q);
  }
  if (p.seqused_q) rows.count = clamp_int(p.seqused_q[r], 0, rows.count);
  return rows;
}

__device__ __forceinline__ void find_keys(const ForwardParams& p, Request& request) {
  const int r = static_cast<int>(request.index);
  int first = 0, extent = p.max_s_k, batch = r;
  if (p.cu_seqlens_k) {
    first = clamp_int(p.cu_seqlens_k[r], 0, p.k_rows);
    const int end = clamp_int(p.cu_seqlens_k[r + 1], first, p.k_rows);
    extent = min(end - first, p.max_s_k);
    batch = 0;
  }
  if (p.seqused_k) extent = clamp_int(p.seqused_k[r], 0, extent);
  const int padding = p.leftpad_k ? clamp_int(p.leftpad_k[r], 0, extent) : 0;
  if (p.cache_batch_idx) batch = clamp_int(p.cache_batch_idx[r], 0, p.k_batch - 1);
  request.s_k = extent - padding;
  request.k_row = first + padding;
  request.k_batch = batch;
  if (p.key_source == KeySource::pointers && (!p.k_ptrs[r] || !p.v_ptrs[r])) request.s_k = 0;
}

__device__ __forceinline__ void find_mask(const ForwardParams& p, Request& request) {
  const int r = static_cast<int>(request.index);
  MaskKind kind = p.mask_kind;
  if (p.mask_kinds) kind = static_cast<MaskKind>(p.mask_kinds[r]);
  MaskRule& rule = request.rule;
  rule.s_k = request.s_k;
  rule.window_left = p.window_left;
  rule.window_right = p.window_right;
  rule.first_keys = p.first_keys;
  rule.chunk = p.chunk;
  rule.causal = kind == MaskKind::causal;
  switch (p.diagonal) {
    case DiagonalKind::bottom_right:
      rule.delta = request.s_k - request.s_q;
      break;
    case DiagonalKind::top_left:
      rule.delta = 0;
      break;
    case DiagonalKind::offset:
      rule.delta = p.diagonal_offset;
      break;
    case DiagonalKind::offset_per_request:
      rule.delta = p.diagonal_offsets[r];
      break;
  }
  request.is_tree = kind == MaskKind::tree && p.tree != nullptr;
  if (request.is_tree) {
    const int most = static_cast<int>(min(request.s_k, static_cast<long long>(p.tree_words) * 64));
    request.tree_prefix = request.s_k - clamp_int(p.tree_sizes[r], 0, most);
  }
}

template <bool kHasLengths>
__device__ __forceinline__ Request find_request(const ForwardParams& p, int r) {
  Request request;
  request.index = r;
  if constexpr (kHasLengths) {
    const QueryRows rows = query_rows(p, r);
    request.q_row = rows.first;
    request.s_q = rows.count;
    find_keys(p, request);
  } else {
    request.s_q = p.max_s_q;
    request.s_k = p.max_s_k;
    request.k_batch = r;
  }
  find_mask(p, request);
  return request;
}

}  // namespace flash_attn::cuda
