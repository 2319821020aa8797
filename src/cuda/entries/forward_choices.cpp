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

int multiprocessors_of(const Problem& p, const DeviceInfo& device) {
  return p.sm_limit > 0 ? std::min(p.sm_limit, device.multiprocessors) : device.multiprocessors;
}

unsigned limited_blocks(int64_t work, int sm_limit) {
  return static_cast<unsigned>(sm_limit > 0 ? std::min<int64_t>(work, sm_limit) : work);
}

int asked_splits(const Problem& p, int tile_k) {
  if (p.num_splits > 0) return p.num_splits;
  if (p.split_size > 0) {
    const int64_t keys = split_keys_of(p, tile_k);
    return static_cast<int>(std::max<int64_t>(1, (p.max_s_k + keys - 1) / keys));
  }
  return splits_freely(p) ? 0 : 1;
}

int split_keys_of(const Problem& p, int tile_k) {
  return static_cast<int>((std::min(p.split_size, kMostKeys) + tile_k - 1) / tile_k * tile_k);
}

size_t partial_bytes(const Problem& p, int tile_q) { return static_cast<size_t>(tile_q) * static_cast<size_t>(p.d_v + 2) * 4; }

void cut_into_items(const Problem& p, int tile_q, int tile_k, int splits, ForwardParams* params) {
  const int64_t rows = p.max_s_q * int64_t{params->pack.value}, tiles = (rows + tile_q - 1) / tile_q;
  params->tiles_q = make_divisor(static_cast<unsigned>(std::max<int64_t>(1, tiles)));
  params->splits = make_divisor(static_cast<unsigned>(splits));
  params->split_keys = split_keys_of(p, tile_k);
  params->items = static_cast<int>(params->heads * tiles * splits);
  const int64_t in_tile = std::min<int64_t>(tile_q, rows);
  params->combine_groups = static_cast<int>(std::max<int64_t>(1, (in_tile + CombineConfig::kWarps - 1) / CombineConfig::kWarps));
}

void set_section(int section, ForwardParams* params) {
  const auto divisor = [](int value) { return make_divisor(static_cast<unsigned>(std::max(value, 1))); };
  params->section = section;
  params->section_items = divisor(section * static_cast<int>(params->tiles_q.value));
  params->section_heads[0] = divisor(section);
  params->section_heads[1] = divisor(params->heads % section);
  params->request_heads = divisor(params->slots);
}

int64_t visible_keys(const Problem& p) {
  const bool is_causal = p.mask_kind == MaskKind::causal;
  if (p.diagonal == Diagonal::top_left && (is_causal || p.window_right >= 0)) {
    const int64_t right = is_causal ? 0 : std::min(p.window_right, p.max_s_k);
    return std::min(p.max_s_k, p.max_s_q + right);
  }
  if (p.window_left < 0 || p.window_right < 0) return p.max_s_k;
  return std::min(p.max_s_k, p.window_left + p.window_right + p.max_s_q + p.first_keys);
}

}  // namespace flash_attn::cuda
