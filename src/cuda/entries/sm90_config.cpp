// See sm90_config.h. Tiles were measured on an H100 (docs/notes/2026-11-24-hopper-forward.md); lengths only tell short problems,
// where whole rounds of tiles count, from long ones, where bytes per operation do.
#include "cuda/entries/sm90_config.h"

#include "cuda/entries/entry.h"
#include "cuda/entries/forward_params.h"

#include <algorithm>
#include <cmath>

namespace flash_attn::cuda {
namespace {

constexpr int64_t kFewRows = 16;     // so few query rows are better served by splitting the keys
constexpr int64_t kLongKeys = 1024;  // from here on, tall tiles with short key blocks
constexpr int64_t kLongMaskedKeys = 4096;
constexpr int64_t kMostMapRows = 0x7fff0000;

int round_up_16(int64_t x) { return static_cast<int>((x + 15) / 16 * 16); }

Sm90Mask mask_of(const Problem& p) {
  if (p.window_left >= 0 || p.chunk > 0) return Sm90Mask::interval;
  const bool may_be_causal = p.mask_kind == MaskKind::causal || p.mask_kind == MaskKind::per_request;
  return may_be_causal || p.window_right >= 0 ? Sm90Mask::right : Sm90Mask::none;
}

Status check_features(const Problem& p) {
  if (p.dtype == DType::f32) return unsupported("dtype f32 has no matrix instructions of full precision");
  if (p.o_dtype != p.dtype) return unsupported("o has another dtype than q");
  if (p.kv_layout != KvLayout::contiguous) return unsupported("paged caches and K/V by pointers are read by another kernel");
  if (p.has_bias || p.has_mask || p.has_tree_mask)
    return unsupported("bias, boolean masks and tree masks are served by another kernel");
  if (p.dropout_p > 0) return unsupported("dropout is served by another kernel");
  if (p.first_keys > 0) return unsupported("first_keys is served by another kernel");
  if (!(p.scale > 1e-30f)) return unsupported("scale is %g but must be positive here", static_cast<double>(p.scale));
  if (p.num_splits > 1 || p.split_size > 0) return unsupported("key splits are served by another kernel");
  if (p.max_s_q <= kFewRows)
    return unsupported("requests have at most %lld query rows: splitting their keys is faster", static_cast<long long>(kFewRows));
  return {};
}

// Rows from one batch to the next.
int64_t batch_rows(const MapShape& map) { return map.batches > 1 ? map.axes.batch / map.axes.row : 0; }

Status check_maps(const Problem& p, const Sm90Maps& maps) {
  FA_TRY(check_map("q", maps.q, p.q_alignment));
  FA_TRY(check_map("k", maps.k, p.k_alignment));
  FA_TRY(check_map("v", maps.v, p.v_alignment));
  FA_TRY(check_map("o", maps.o, p.o_alignment));
  if (!maps.q.has_lengths) return {};
  if (batch_rows(maps.q) != batch_rows(maps.o)) return unsupported("q and o have different numbers of rows between batches");
  if (batch_rows(maps.k) != batch_rows(maps.v)) return unsupported("k and v have different numbers of rows between batches");
  if (maps.q.batches * batch_rows(maps.q) > kMostMapRows || maps.k.batches * batch_rows(maps.k) > kMostMapRows)
    return unsupported("all batches together have more than %lld rows", static_cast<long long>(kMostMapRows));
  return {};
}

// Wide heads: O fills the registers, so the next tile waits for this one's epilogue.
void configure_wide(Sm90ForwardConfig* c) {
  c->tile_k = 80;
  c->shares_q_buffer = c->slabs_v() <= c->slabs();
  c->overlaps_tiles = c->d <= 192 && c->d_v <= 192;
  if (!c->shares_q_buffer) c->tile_k = 48, c->overlaps_tiles = false;
}

void configure_narrow(const Problem& p, bool is_plain, Sm90ForwardConfig* c) {
  c->groups = 3;
  c->takes_turns = true;
  if (is_plain && c->mask == Sm90Mask::none) {
    c->tile_k = 128, c->consumer_registers = 160, c->producer_registers = 32;
  } else {
    c->tile_k = 112, c->consumer_registers = 152, c->producer_registers = 56;
  }
  if (p.max_s_q <= 128) c->groups = 2, c->takes_turns = false, c->consumer_registers = 224, c->producer_registers = 56;
}

void configure_middle(const Problem& p, bool is_plain, Sm90ForwardConfig* c) {
  const bool is_long = p.max_s_k >= (c->mask == Sm90Mask::none ? kLongKeys : kLongMaskedKeys) && p.max_s_q > 128;
  c->shares_q_buffer = c->slabs_v() <= c->slabs();
  if (is_plain && is_long && c->mask != Sm90Mask::interval && c->shares_q_buffer) {
    c->groups = 3, c->tile_k = 80, c->stages = 3, c->consumer_registers = 152, c->producer_registers = 56;
    return;
  }
  c->tile_k = 128;
  // o gets a buffer of its own where there is room, so that the next tile need not wait for it.
  Sm90ForwardConfig own = *c;
  own.shares_q_buffer = false;
  constexpr int kMostShared = 232448;
  if (Sm90Layout(own).total <= kMostShared) *c = own;
  if (Sm90Layout(*c).total > kMostShared) c->tile_k = 80;
}

}  // namespace

Sm90ForwardConfig configure_sm90(const Problem& p) {
  Sm90ForwardConfig c;
  c.dtype = p.dtype;
  c.d = round_up_16(p.d);
  c.d_v = round_up_16(p.d_v);
  c.mask = mask_of(p);
  c.has_softcap = p.softcap > 0;
  c.has_alibi = p.has_alibi;
  c.has_lengths = reads_lengths(p);
  c.is_dynamic = c.mask != Sm90Mask::none || c.has_lengths;
  c.consumer_registers = 224;
  c.producer_registers = 56;
  const bool is_plain = !c.has_softcap && !c.has_alibi && !c.has_lengths;
  const int widest = std::max(c.d, c.d_v);
  if (widest > 128)
    configure_wide(&c);
  else if (widest > 64)
    configure_middle(p, is_plain, &c);
  else
    configure_narrow(p, is_plain, &c);
  return c;
}

Sm90Maps map_shapes(const Problem& p, const Sm90ForwardConfig& c) {
  Sm90Maps maps;
  const auto fill = [&](MapShape* map, const Axes& axes, bool is_packed, int64_t batches, int64_t rows, int64_t heads,
                        int64_t columns, int box) {
    map->dtype = p.dtype;
    map->axes = axes;
    map->batches = is_packed ? 1 : batches;
    map->rows = rows;
    map->heads = heads;
    map->columns = columns;
    map->box_rows = box;
    map->has_lengths = c.has_lengths;
  };
  const int64_t rows_q = p.packed_q ? p.total_q : p.max_s_q;
  fill(&maps.q, p.q, p.packed_q, p.b, rows_q, p.h_q, p.d, 64);
  fill(&maps.o, p.o, p.packed_q, p.b, rows_q, p.h_q, p.d_v, 64);
  fill(&maps.k, p.k, p.packed_k, p.k_batch, p.k_rows, p.h_k, p.d, c.tile_k);
  fill(&maps.v, p.v, p.packed_k, p.k_batch, p.k_rows, p.h_k, p.d_v, c.tile_k);
  return maps;
}

Status supports_sm90(const Problem& p, const DeviceInfo& device) {
  if (device.compute_capability != 90)
    return unsupported("it is made of sm_90a instructions and the device is of compute capability %d.%d",
                       device.compute_capability / 10, device.compute_capability % 10);
  FA_TRY(check_forward_features(p));
  FA_TRY(check_features(p));
  const Sm90ForwardConfig config = configure_sm90(p);
  FA_TRY(check_maps(p, map_shapes(p, config)));
  const int needed = Sm90Layout(config).total;
  if (needed > device.shared_bytes)
    return unsupported("d %lld with d_v %lld needs %d bytes of shared memory and the device has %d", static_cast<long long>(p.d),
                       static_cast<long long>(p.d_v), needed, device.shared_bytes);
  return {};
}

Sm90ForwardParams shape_sm90_params(const Problem& p, const DeviceInfo& device, const Sm90ForwardConfig& c) {
  Sm90ForwardParams to;
  const Sm90Maps maps = map_shapes(p, c);
  to.lse_axes = p.lse;
  to.alibi_batch_stride = p.alibi_batch_stride;
  to.window_left = p.window_left;
  to.window_right = p.window_right;
  to.chunk = p.chunk;
  to.diagonal_offset = p.diagonal_offset;
  to.diagonal = static_cast<int>(p.diagonal);
  to.is_causal = p.mask_kind == MaskKind::causal;
  to.b = static_cast<int>(p.b);
  to.h_q = static_cast<int>(p.h_q);
  to.h_k = static_cast<int>(p.h_k);
  to.rows_q = static_cast<int>(maps.q.rows);
  to.rows_k = static_cast<int>(maps.k.rows);
  to.max_s_q = static_cast<int>(p.max_s_q);
  to.max_s_k = static_cast<int>(p.k_batch > 0 ? p.max_s_k : 0);
  to.batch_rows_q = static_cast<int>(batch_rows(maps.q));
  to.batch_rows_k = static_cast<int>(batch_rows(maps.k));
  to.k_batch = static_cast<int>(p.k_batch);
  to.tiles_q = static_cast<int>((p.max_s_q + c.tile_q() - 1) / c.tile_q());
  to.tiles = static_cast<int>(to.tiles_q * p.h_q * p.b);
  // Heads whose keys half of the L2 cache holds are swept together; the heads of a group share theirs.
  const int64_t key_bytes = std::max<int64_t>(p.max_s_k * (p.d + p.d_v) * 2, 1);
  const int64_t heads = c.mask == Sm90Mask::none ? 1 : std::clamp<int64_t>(device.l2_bytes / 2 / key_bytes, 1, 16);
  to.section =
      static_cast<int>(std::clamp<int64_t>(std::max(heads / p.group, int64_t{1}) * p.group, 1, std::max<int64_t>(p.h_q * p.b, 1)));
  to.scale = p.scale;
  to.scale_log2 = p.scale * 1.4426950408889634f;
  to.softcap = p.softcap;
  return to;
}

}  // namespace flash_attn::cuda
