// See sm80_config.h. Nothing here depends on a length but the tile's height (few rows or many) and the number of splits, and with
// batch_invariant not even those.
#include "cuda/entries/sm80_config.h"

#include "cuda/entries/entry.h"
#include "cuda/entries/forward_params.h"
#include "cuda/entries/tuning.h"

#include <algorithm>
#include <cstdint>

namespace flash_attn::cuda {
namespace {

constexpr int64_t kMostDim = 256;
constexpr int64_t kMostRows = (int64_t{1} << 31) - 256;
constexpr int64_t kMostItems = (int64_t{1} << 31) - 256;
constexpr int kTallTile = 128, kShortTile = 64, kLeastTile = 32, kLeastKeyTile = 16;

long long number(int64_t value) { return value; }

void set_features(const Problem& p, Sm80ForwardConfig* c) {
  const int64_t element = dtype_bytes(p.dtype);
  c->dtype = p.dtype;
  c->o_dtype = p.o_dtype;
  c->d = static_cast<int>(p.d);
  c->d_v = static_cast<int>(p.d_v);
  c->access = std::min(
      {access_of(p.q, element, p.q_alignment), access_of(p.k, element, p.k_alignment), access_of(p.v, element, p.v_alignment)});
  c->o_pairs = writes_pairs(p);
  c->o_chunks = p.d_v % 8 == 0 && dtype_bytes(p.o_dtype) == 2 && access_of(p.o, 2, p.o_alignment) == 16;
  set_score_features(p, c);
  c->is_scaled = c->has_softcap || c->has_alibi || p.has_bias || p.has_mask || p.has_tree_mask || scales_scores(p);
  c->is_paged = p.kv_layout == KvLayout::paged;
}

// Plain 16-bit attention, whose weights can be made with the maxima of earlier blocks and whose registers hold two strips a warp.
bool is_lean(const Sm80ForwardConfig& c) {
  return !c.is_scaled && !c.has_dropout && c.mask != KeyMask::interval && c.access == 16 && c.dtype != DType::f32;
}

// Keys of a step: as many as registers hold beside the accumulators and what the features need.
int key_tile(const Sm80ForwardConfig& c, int dim, const DeviceInfo& device) {
  if (c.dtype == DType::f32) return dim > 128 ? 16 : 32;
  if (dim <= 112) return 64;
  // Looking up pages takes registers too.
  if (dim > 128 && is_lean(c)) return c.is_paged && c.tile_q == kTallTile ? 32 : 64;
  const bool is_crowded = c.tile_q == kTallTile && c.mask == KeyMask::right && c.is_paged;
  const bool is_newer = c.tile_q == kTallTile && device.compute_capability >= 100;
  if (dim <= 128 && is_newer) return c.mask == KeyMask::right ? 32 : 48;
  if (dim <= 128) return is_crowded || !is_lean(c) ? 48 : 64;
  return dim <= 224 ? 32 : 16;
}

bool fits_as_is(const Sm80ForwardConfig& c, const DeviceInfo& device) {
  constexpr int kReserved = 1024;  // the driver's, of each block
  return c.shared_bytes() <= device.shared_bytes && c.blocks_per_sm * (c.shared_bytes() + kReserved) <= device.shared_bytes_per_sm;
}

// Does the tile fit? Sets what follows from it. Wide heads: two warps share 32 rows, each with half of the keys of the scores and
// half of d_v, and so read K and V half as often as warps of 16 rows would. Values lag where registers hold two steps' weights: up
// to 64, and with two columns (docs/notes/2026-11-24-mma-forward.md).
bool fits(Sm80ForwardConfig* c, const DeviceInfo& device) {
  const int dim = std::max(c->padded_d(), c->padded_d_v());
  const bool is_tall = is_lean(*c) && c->tile_q == kTallTile;
  const bool may_share = is_tall && dim > 128 && c->warps == 8 && c->padded_d_v() % 32 == 0 && c->tile_k % 32 == 0;
  c->columns = may_share ? 2 : 1;
  if (may_share && !fits_as_is(*c, device)) c->columns = 1;
  c->keeps_queries = is_tall && dim <= 64 && c->warps == 4 && c->tile_k <= 64;
  c->lags_values = c->columns == 2 || c->keeps_queries;
  return fits_as_is(*c, device);
}

// Warps with two strips of rows read K and V half as often, where registers hold that: plain masks and no splits, which are for
// little work anyway.
void set_tile(const Problem& p, const DeviceInfo& device, Sm80ForwardConfig* c) {
  const int dim = std::max(c->padded_d(), c->padded_d_v());
  const bool is_short = p.max_s_q * p.group <= kShortTile && (p.flags & FA_FLAG_BATCH_INVARIANT) == 0;
  c->tile_q = is_lean(*c) && !is_short && !c->has_splits ? kTallTile : kShortTile;
  c->warps = c->tile_q == kTallTile && dim > 128 ? 8 : 4;
  c->blocks_per_sm = c->warps == 8 ? 1 : 2;
  c->tile_k = key_tile(*c, dim, device);
  while (!fits(c, device) && c->tile_k > 32) c->tile_k -= kLeastKeyTile;
  if (!fits(c, device)) c->blocks_per_sm = 1;
  if (!fits(c, device) && c->tile_q == kTallTile) {
    c->tile_q = kShortTile;
    c->warps = 4;
  }
  while (!fits(c, device) && c->tile_k > kLeastKeyTile) c->tile_k -= kLeastKeyTile;
  if (!fits(c, device)) {
    c->tile_q = kLeastTile;
    c->warps = 2;
  }
}

// What the caller forces behind the kernel's name.
Status force_tile(const Problem& p, Sm80ForwardConfig* c) {
  if (forced_fields_of(p.kernel).empty()) return {};
  c->columns = 1;
  FA_TRY(apply_forced_fields(p.kernel, {"tile_q", "tile_k", "warps", "blocks_per_sm"}, c));
  if ((c->tile_q != kLeastTile && c->tile_q != kShortTile && c->tile_q != kTallTile) || c->warps < 1 ||
      c->tile_q % (16 * c->warps) != 0 || c->strips() > 2)
    return unsupported("tile_q is %d and warps %d but tile_q must be 32, 64 or 128, and a warp owns 16 or 32 of its rows",
                       c->tile_q, c->warps);
  if (c->tile_k < kLeastKeyTile || c->tile_k > 128 || c->tile_k % kLeastKeyTile != 0)
    return unsupported("tile_k is %d but must be a multiple of 16 up to 128", c->tile_k);
  if (c->blocks_per_sm < 1 || c->blocks_per_sm > 4) return unsupported("blocks_per_sm is %d but must be 1 to 4", c->blocks_per_sm);
  return {};
}

// Blocks that run at a time.
int64_t resident_blocks(const Problem& p, const DeviceInfo& device) { return 2 * int64_t{multiprocessors_of(p, device)}; }

// Few tiles over many keys leave multiprocessors idle: cut the keys so that about every one has work.
int choose_splits(const Problem& p, const DeviceInfo& device, const Sm80ForwardConfig& c) {
  if (const int asked = asked_splits(p, c.tile_k); asked > 0) return asked;
  const int64_t items = count_items(p, c.tile_q, 1);
  const int64_t blocks = (visible_keys(p) + c.tile_k - 1) / c.tile_k;
  if (items == 0 || 10 * items >= 4 * resident_blocks(p, device) || blocks <= 4) return 1;
  return static_cast<int>(std::clamp<int64_t>(resident_blocks(p, device) / items, 1, std::min<int64_t>(64, blocks / 2)));
}

}  // namespace

Status check_forward_features(const Problem& p) {
  if (p.direction != Direction::forward) return unsupported("direction is FA_BACKWARD but this kernel serves the forward");
  return check_room_features(p);
}

Status check_room_features(const Problem& p) {
  if (p.dtype != DType::f32 && p.dtype != DType::f16 && p.dtype != DType::bf16)
    return unsupported("dtype %s is not served on GPUs yet; f32, f16 and bf16 are", dtype_name(p.dtype));
  if (p.has_append) return unsupported("k_new (appending to the cache) is not served on GPUs yet");
  if (p.has_rotary) return unsupported("rotary_cos (rotary embedding) is not served on GPUs yet");
  if (p.has_descale) return unsupported("q_descale, k_descale and v_descale (f8 inputs) are not served on GPUs yet");
  if (p.has_score_mod) return unsupported("score_mod is not served on GPUs yet");
  if (p.d > kMostDim) return unsupported("d is %lld but GPU kernels serve 1 to %lld", number(p.d), number(kMostDim));
  if (p.d_v > kMostDim) return unsupported("d_v is %lld but GPU kernels serve 1 to %lld", number(p.d_v), number(kMostDim));
  if (p.max_s_k > kMostKeys)
    return unsupported("max_s_k is %lld but GPU kernels serve up to %lld keys", number(p.max_s_k), number(kMostKeys));
  if (p.max_s_q * p.group > kMostRows)
    return unsupported("s_q times the query heads of a key head is %lld but GPU kernels serve up to %lld",
                       number(p.max_s_q * p.group), number(kMostRows));
  if (p.packed_q && p.total_q > kMostRows)
    return unsupported("total_q is %lld but GPU kernels serve up to %lld packed rows", number(p.total_q), number(kMostRows));
  if (p.packed_k && p.k_rows > kMostRows)
    return unsupported("total_k is %lld but GPU kernels serve up to %lld packed rows", number(p.k_rows), number(kMostRows));
  if (p.b * p.h_q > kMostRows)
    return unsupported("b times h_q is %lld but GPU kernels serve up to %lld", number(p.b * p.h_q), number(kMostRows));
  return {};
}

int64_t tiles_of(const Problem& p, int tile_q) {
  const int64_t rows = p.max_s_q * (p.dropout_p > 0 ? 1 : p.group);
  return (rows + tile_q - 1) / tile_q;
}

int64_t count_items(const Problem& p, int tile_q, int splits) {
  return p.b * (p.dropout_p > 0 ? p.h_q : p.h_k) * tiles_of(p, tile_q) * splits;
}

Status configure_sm80(const Problem& p, const DeviceInfo& device, Sm80ForwardConfig* config, int* splits) {
  set_features(p, config);
  set_tile(p, device, config);
  FA_TRY(force_tile(p, config));
  if (!fits(config, device))
    return unsupported("d %lld and d_v %lld need %d bytes of shared memory but GPU %d has %d for a block", number(p.d),
                       number(p.d_v), config->shared_bytes(), device.index, device.shared_bytes);
  *splits = choose_splits(p, device, *config);
  if (*splits > 1) {
    config->has_splits = true;
    set_tile(p, device, config);
    FA_TRY(force_tile(p, config));
    if (!fits(config, device)) return unsupported("the forced tile needs more shared memory than GPU %d has", device.index);
    *splits = std::max(2, choose_splits(p, device, *config));
  }
  // Divided so that no product overflows: b * h_q is below 2^31, tiles and splits as well.
  const int64_t heads = std::max<int64_t>(1, count_items(p, config->tile_q, 1) / std::max<int64_t>(1, tiles_of(p, config->tile_q)));
  const int64_t tiles = std::max<int64_t>(1, tiles_of(p, config->tile_q)) * *splits;
  if (tiles > kMostItems / heads)
    return unsupported("%lld heads of all requests, %lld query tiles and %d key splits are more than the %lld blocks of a launch",
                       number(heads), number(tiles / *splits), *splits, number(kMostItems));
  return {};
}

WorkspaceSize bound_sm80_workspace(const Problem& p, const DeviceInfo& device) {
  WorkspaceSize size;
  if (splits_freely(p)) {
    size.scratch_bytes = static_cast<size_t>(resident_blocks(p, device)) * partial_bytes(p, kTallTile);
    return size;
  }
  int64_t splits = p.num_splits;
  if (p.split_size > 0) {
    const int64_t keys = split_keys_of(p, kLeastKeyTile);
    splits = (p.max_s_k + keys - 1) / keys;
  }
  if (splits <= 1) return size;
  // Rows of all tiles: a slot's last tile may be all but empty.
  size_t bytes = 4;
  for (const int64_t factor : {p.b, p.h_q, p.max_s_q + kTallTile - 1, splits, p.d_v + 2})
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(factor), &bytes)) bytes = SIZE_MAX;
  size.scratch_bytes = bytes;
  return size;
}

}  // namespace flash_attn::cuda
