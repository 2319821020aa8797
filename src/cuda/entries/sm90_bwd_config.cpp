// See sm90_bwd_config.h. Tiles follow from what registers hold; docs/notes/2026-11-24-hopper-backward.md has the measurements.
#include "cuda/entries/sm90_bwd_config.h"

#include "cuda/entries/entry.h"
#include "cuda/entries/forward_choices.h"
#include "cuda/entries/forward_params.h"
#include "cuda/entries/sm90_maps.h"
#include "cuda/entries/tuning.h"

#include <algorithm>
#include <bit>

namespace flash_attn::cuda {
namespace {

constexpr int64_t kMostMapRows = 0x7fff0000;
constexpr int64_t kMostBlocks = 0x7fffffff;

Status check_features(const Problem& p) {
  if (p.dtype == DType::f32) return unsupported("dtype f32 has no matrix instructions of full precision");
  if (p.o_dtype != p.dtype) return unsupported("o and dout have another dtype than q");
  if (p.has_bias || p.has_mask || p.has_tree_mask)
    return unsupported("bias, boolean masks and tree masks are served by another kernel");
  if (p.first_keys > 0) return unsupported("first_keys is served by another kernel");
  if (p.has_dslopes) return unsupported("gradients of ALiBi slopes are served by another kernel");
  if (p.dk_dtype != p.dtype || p.dv_dtype != p.dtype || p.accumulates_dk || p.accumulates_dv)
    return unsupported("dk and dv in f32, or added to what is there, are served by another kernel");
  if (p.chunk > 0 && p.has_flag(FA_FLAG_DETERMINISTIC))
    return unsupported("deterministic gradients of chunked attention are served by another kernel");
  if (p.sm_limit > 0) return unsupported("sm_limit is kept by another kernel");
  if (!(p.scale > 1e-30f)) return unsupported("scale is %g but must be positive here", static_cast<double>(p.scale));
  return {};
}

// What a caller forces behind the kernel's name: "sm90_bwd:dq_lag=0".
Status apply_forced(const Problem& p, Sm90BackwardConfig* c) {
  return apply_forced_fields(p.kernel, {"dq_lag", "dout_stages", "polynomial_exp", "stages_dq"}, c);
}

Status check_schedule(const Sm90BackwardConfig& c) {
  if (c.dq_lag < 0 || c.dq_lag > (c.is_wide() ? 0 : 1))
    return invalid("dq_lag is %d but must be 0, or 1 where d and d_v are small enough", c.dq_lag);
  if (c.polynomial_exp < 0 || c.polynomial_exp > 4) return invalid("polynomial_exp is %d but must be 0 to 4", c.polynomial_exp);
  if (c.dout_stages < 1 || c.dout_stages > 2) return invalid("dout_stages is %d but must be 1 or 2", c.dout_stages);
  return {};
}

Status check_maps(const Problem& p, const Sm90BackwardMaps& maps) {
  FA_TRY(check_map("q", maps.q, p.q_alignment));
  FA_TRY(check_map("k", maps.k, p.k_alignment));
  FA_TRY(check_map("v", maps.v, p.v_alignment));
  FA_TRY(check_map("dout", maps.dout, p.dout_alignment));
  FA_TRY(check_map("dk", maps.dk, p.dk_alignment));
  FA_TRY(check_map("dv", maps.dv, p.dv_alignment));
  if (!maps.q.has_lengths) return {};
  if (batch_rows(maps.q) != batch_rows(maps.dout)) return unsupported("q and dout have different numbers of rows between batches");
  for (const MapShape* map : {&maps.v, &maps.dk, &maps.dv})
    if (batch_rows(*map) != batch_rows(maps.k))
      return unsupported("k, v, dk and dv have different numbers of rows between batches");
  if (maps.q.batches * batch_rows(maps.q) > kMostMapRows || maps.k.batches * batch_rows(maps.k) > kMostMapRows)
    return unsupported("all batches together have more than %lld rows", static_cast<long long>(kMostMapRows));
  return {};
}

int64_t key_tiles(const Problem& p, const Sm90BackwardConfig& c) { return (p.max_s_k + c.tile_k() - 1) / c.tile_k(); }

// Key heads that are swept together. With all tiles alike one at a time serves best. Else they are as many as even blocks out,
// while the L2 cache holds what it must of their queries and sums of dq: causal tiles take unequal time, and blocks that add in
// order wait for those of the key tiles before, fewer of which run at a time the more heads there are. Powers of two leave no small
// section behind. Measured (docs/notes/2026-11-24-hopper-backward.md).
int64_t section_heads(const Problem& p, const DeviceInfo& device, const Sm90BackwardConfig& c) {
  constexpr int64_t kMostSection = 16;
  if (c.mask == KeyMask::none && !c.is_deterministic) return 1;
  if (!c.is_wide() && (c.mask == KeyMask::right || c.is_deterministic)) {
    if (c.mask == KeyMask::none) return kMostSection / 2;
    return c.is_deterministic && c.splits_rows() ? 2 * kMostSection : kMostSection;
  }
  const int64_t bytes = std::max<int64_t>(p.max_s_q * p.group * (6 * c.d + 2 * c.d_v), 1);
  int64_t cached = device.l2_bytes / 2;
  if (c.is_deterministic) cached = device.l2_bytes * 3 / 5 * (c.mask == KeyMask::none ? 1 : 4);
  return static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::clamp<int64_t>(cached / bytes, 1, kMostSection))));
}

}  // namespace

Sm90BackwardConfig configure_sm90_backward(const Problem& p) {
  Sm90BackwardConfig c;
  c.dtype = p.dtype;
  c.d = round_up_16(p.d);
  c.d_v = round_up_16(p.d_v);
  c.mask = key_mask_of(p);
  c.has_softcap = p.softcap > 0;
  c.has_alibi = p.has_alibi;
  c.has_dropout = p.dropout_p > 0;
  c.has_lengths = reads_lengths(p);
  c.is_deterministic = p.has_flag(FA_FLAG_DETERMINISTIC);
  // Half of dq's rows to each consumer warp group, or half of its columns.
  c.tile_q = c.d <= Sm90BackwardConfig::kSlab && !c.is_wide() ? 128 : 64;
  // With wide heads there is no room to stage dq.
  c.stages_dq = !c.is_wide();
  // Where exponentials are many for the products, the special function unit is given some help.
  c.polynomial_exp = c.splits_rows() && !c.has_softcap ? 1 : 0;
  // Measured: tall tiles gain more from groups that drift apart than from a second tile of dout, for which there is no room then.
  c.dq_lag = c.splits_rows() ? 1 : 0;
  constexpr int kMostShared = 232448;
  if (c.dq_lag > 0 || Sm90BackwardLayout(c).total > kMostShared) c.dout_stages = 1;
  if (Sm90BackwardLayout(c).total > kMostShared) c.dq_lag = 0;
  if (Sm90BackwardConfig forced = c; apply_forced(p, &forced).ok()) return forced;
  return c;
}

BackwardShape sm90_backward_shape(const Sm90BackwardConfig& c) {
  BackwardShape shape;
  shape.stat_tile = c.tile_q;
  shape.sums_d = c.d;
  return shape;
}

Sm90BackwardMaps map_backward_shapes(const Problem& p, const Sm90BackwardConfig& c) {
  Sm90BackwardMaps maps;
  const auto fill = [&](MapShape* map, const Axes& axes, bool is_packed, int64_t rows, int64_t heads, int64_t columns, int box) {
    map->dtype = p.dtype;
    map->axes = axes;
    map->batches = is_packed ? 1 : p.b;
    map->rows = rows;
    map->heads = heads;
    map->columns = columns;
    map->box_rows = box;
    map->has_lengths = c.has_lengths;
    // Requests of one row each: where lengths are read, batches are counted in rows.
    if (c.has_lengths && !is_packed && rows == 1) map->axes.row = axes.batch, map->rows = map->batches;
  };
  const int64_t rows_q = p.packed_q ? p.total_q : p.max_s_q;
  constexpr int group_rows = Sm90BackwardConfig::kGroupKeys;
  fill(&maps.q, p.q, p.packed_q, rows_q, p.h_q, p.d, c.tile_q);
  fill(&maps.dout, p.dout, p.packed_q, rows_q, p.h_q, p.d_v, c.tile_q);
  fill(&maps.k, p.k, p.packed_k, p.k_rows, p.h_k, p.d, c.tile_k());
  fill(&maps.v, p.v, p.packed_k, p.k_rows, p.h_k, p.d_v, c.tile_k());
  fill(&maps.dk, p.dk, p.packed_k, p.k_rows, p.h_k, p.d, group_rows);
  fill(&maps.dv, p.dv, p.packed_k, p.k_rows, p.h_k, p.d_v, group_rows);
  return maps;
}

Status supports_sm90_backward(const Problem& p, const DeviceInfo& device) {
  if (device.compute_capability != 90)
    return unsupported("it is made of sm_90a instructions and the device is of compute capability %d.%d",
                       device.compute_capability / 10, device.compute_capability % 10);
  FA_TRY(check_backward_features(p));
  FA_TRY(check_features(p));
  Sm90BackwardConfig config = configure_sm90_backward(p);
  FA_TRY(apply_forced(p, &config));
  FA_TRY(check_schedule(config));
  FA_TRY(check_maps(p, map_backward_shapes(p, config)));
  const long long heads = p.b * p.h_k, tiles = key_tiles(p, config), most = kMostBlocks;
  if (tiles > 0 && heads > most / tiles)
    return unsupported("there are %lld key heads of %lld tiles but the kernel takes %lld together", heads, tiles, most);
  const int needed = Sm90BackwardLayout(config).total;
  if (needed > device.shared_bytes)
    return unsupported("d %lld with d_v %lld needs %d bytes of shared memory and the device has %d", static_cast<long long>(p.d),
                       static_cast<long long>(p.d_v), needed, device.shared_bytes);
  return {};
}

Sm90BackwardArguments shape_sm90_backward(const Problem& p, const DeviceInfo& device, const Sm90BackwardConfig& c) {
  constexpr float kLog2E = 1.4426950408889634f;
  Sm90BackwardArguments to;
  const Sm90BackwardMaps maps = map_backward_shapes(p, c);
  to.h_k = static_cast<int>(p.h_k);
  to.group = static_cast<int>(p.group);
  to.tiles_k = static_cast<int>(key_tiles(p, c));
  to.units = static_cast<int>(p.b * p.h_k);
  to.section = static_cast<int>(std::clamp<int64_t>(section_heads(p, device, c), 1, std::max<int64_t>(to.units, 1)));
  to.batch_rows_q = static_cast<int>(batch_rows(maps.q));
  to.batch_rows_k = static_cast<int>(batch_rows(maps.k));
  to.scale_log2 = p.scale * kLog2E;
  if (c.has_softcap) {
    to.scale_over_cap = p.scale / p.softcap;
    to.cap_log2 = p.softcap * kLog2E;
    to.inverse_cap_log2 = 1 / to.cap_log2;
  }
  return to;
}

size_t sm90_turn_bytes(const Problem& p, const BackwardParams& params, const Sm90BackwardConfig& c) {
  if (!c.is_deterministic) return 0;
  return static_cast<size_t>(p.h_q) * static_cast<size_t>(params.stat_rows / c.tile_q) * sizeof(unsigned);
}

}  // namespace flash_attn::cuda
