// One request with its lengths resolved, and where its rows lie in the tensors. Shared by all rooms; compiles under NVRTC.
#pragma once

#include "math/mask.h"
#include "math/types.h"

namespace flash_attn {

struct Request {
  long long index = 0;    // which request: the batch index of q, o, lse, bias, slopes
  long long q_row = 0;    // physical row of query 0: its packed offset, 0 in a dense tensor
  long long k_batch = 0;  // first index into k and v (contiguous), or row of the block table (paged)
  long long k_row = 0;    // physical row of effective key 0: packed offset plus left padding
  long long s_q = 0;
  long long s_k = 0;
  MaskRule rule;
  bool is_tree = false;
  long long tree_prefix = 0;  // keys before the tree
};

// Offset in elements of row i, head h of a [batch, row, head, dim] tensor, for query-side tensors of a request.
FA_HOST_DEVICE long long query_offset(const Axes& axes, const Request& request, long long i, long long h) {
  return request.index * axes.batch + (request.q_row + i) * axes.row + h * axes.head;
}

FA_HOST_DEVICE long long bias_offset(const BiasAxes& axes, const Request& request, long long i, long long h) {
  return request.index * axes.batch + h * axes.head + (request.q_row + i) * axes.row;
}

}  // namespace flash_attn
