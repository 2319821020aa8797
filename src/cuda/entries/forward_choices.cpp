// See forward_choices.h.
#include "cuda/entries/forward_choices.h"

#include <algorithm>

namespace flash_attn::cuda {

KeyMask key_mask_of(const Problem& p) {
  if (p.window_left >= 0 || p.chunk > 0) return KeyMask::interval;
  const bool may_be_causal = p.mask_kind == MaskKind::causal || p.mask_kind == MaskKind::per_request;
  // One row on the last diagonal sees every key.
  const bool is_last_row = p.max_s_q <= 1 && p.diagonal == Diagonal::bottom_right && (p.flags & FA_FLAG_BATCH_INVARIANT) == 0;
  if ((may_be_causal || p.window_right >= 0) && !is_last_row) return KeyMask::right;
  return KeyMask::none;
}

bool scales_scores(const Problem& p) { return !(p.scale > 1e-30f && p.scale < 1e6f); }

int access_of(const Axes& axes, int64_t element, int64_t alignment) {
  for (int64_t unit = 16; unit > element; unit /= 2) {
    const bool fits = alignment % unit == 0 && axes.batch * element % unit == 0 && axes.row * element % unit == 0 &&
                      axes.head * element % unit == 0;
    if (fits) return static_cast<int>(unit);
  }
  return static_cast<int>(element);
}

bool writes_pairs(const Problem& p) {
  return p.o.batch % 2 == 0 && p.o.row % 2 == 0 && p.o.head % 2 == 0 && p.o_alignment % (2 * dtype_bytes(p.o_dtype)) == 0;
}

bool splits_freely(const Problem& p) {
  return p.may_use_workspace && p.num_splits == 0 && p.split_size == 0 && (p.flags & FA_FLAG_BATCH_INVARIANT) == 0;
}

int64_t visible_keys(const Problem& p) {
  if (p.window_left < 0 || p.window_right < 0) return p.max_s_k;
  return std::min(p.max_s_k, p.window_left + p.window_right + p.max_s_q + p.first_keys);
}

}  // namespace flash_attn::cuda
