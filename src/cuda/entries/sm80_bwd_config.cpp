// See sm80_bwd_config.h. Nothing here depends on a length but the number of items.
#include "cuda/entries/sm80_bwd_config.h"

#include "cuda/entries/forward_params.h"
#include "cuda/entries/sm80_config.h"

#include <algorithm>
#include <cstdint>

namespace flash_attn::cuda {
namespace {

// Tiles in the order of preference; a kernel takes the first that its registers and the device's shared memory allow.
struct Tile {
  int q, k, warps, stages;
};
constexpr Tile kTiles[] = {{128, 128, 8, 2}, {64, 128, 8, 2}, {64, 64, 8, 2}, {64, 64, 8, 1},
                           {32, 32, 4, 2},   {32, 32, 4, 1},  {16, 16, 2, 1}};
// d_bias and d_slopes make no products of dS, and so take small blocks, several to a multiprocessor.
constexpr Tile kScoreTiles[] = {{64, 64, 4, 1}, {32, 32, 4, 1}, {16, 16, 2, 1}};

int64_t count_tiles(int64_t rows, int tile) { return (rows + tile - 1) / tile; }

bool finishes_scores(const Sm80BackwardConfig& c) {
  return c.has_softcap || c.has_alibi || c.bias_dtype != DType::none || c.has_bool_mask || c.has_tree;
}

void set_features(const Problem& p, Sm80BackwardConfig* c) {
  c->dtype = p.dtype;
  c->d = static_cast<int>(p.d);
  c->d_v = static_cast<int>(p.d_v);
  c->copies_dout = p.o_dtype != p.dtype;
  c->access = backward_access(p, c->copies_dout);
  c->mask = key_mask_of(p);
  c->has_softcap = p.softcap > 0;
  c->has_alibi = p.has_alibi;
  c->bias_dtype = p.has_bias ? p.bias_dtype : DType::none;
  c->has_bool_mask = p.has_mask;
  c->has_tree = p.has_tree_mask;
  c->has_dropout = p.dropout_p > 0;
  c->has_lengths = reads_lengths(p);
}

void set_gradients(const Problem& p, Sm80BackwardConfig* c) {
  c->first_dtype = c->second_dtype = p.dtype;
  if (c->role == BackwardRole::queries) {
    c->first_dtype = p.dq_dtype;
    c->adds_first = p.accumulates_dq;
    c->gradient_access = access_of(p.dq, dtype_bytes(p.dq_dtype), p.dq_alignment);
  }
  if (c->role != BackwardRole::keys) return;
  c->first_dtype = p.dk_dtype;
  c->second_dtype = p.dv_dtype;
  c->adds_first = p.accumulates_dk;
  c->adds_second = p.accumulates_dv;
  c->gradient_access =
      std::min(access_of(p.dk, dtype_bytes(p.dk_dtype), p.dk_alignment), access_of(p.dv, dtype_bytes(p.dv_dtype), p.dv_alignment));
}

// The largest tile that leaves room in registers beside the accumulators and what the features need.
bool fits_registers(const Sm80BackwardConfig& c, const Tile& tile) {
  const int dim = std::max(c.padded_d(), c.padded_d_v());
  if (c.dtype == DType::f32) return tile.q <= 32;
  const bool is_lean = !finishes_scores(c) && !c.has_dropout && c.mask != KeyMask::interval && c.access == 16 && !c.copies_dout;
  if (tile.q > 64) return is_lean && dim <= 64 && c.role == BackwardRole::keys;
  if (tile.k > 64) return is_lean && dim <= 128;
  return true;
}

// How the warps share a tile's scores and the gradients: as square as columns can be divided.
void set_layout(const Tile& tile, Sm80BackwardConfig* c) {
  c->tile_q = tile.q;
  c->tile_k = tile.k;
  c->warps = tile.warps;
  c->stages = tile.stages;
  c->blocks_per_sm = 1;
  const auto along_rows = [&](int rows, bool can_be_wide) {
    if (rows == 128) return 4;
    if (rows == 64) return tile.warps == 8 && !can_be_wide ? 4 : 2;
    return rows / 16;
  };
  c->score_warps = tile.q == 128 ? 4 : tile.q == 16 ? 1 : 2;
  c->key_warps = along_rows(tile.k, c->padded_d() % 64 == 0 && c->padded_d_v() % 64 == 0);
  c->query_warps = along_rows(tile.q, c->padded_d() % 64 == 0);
}

Status set_tile(const DeviceInfo& device, Sm80BackwardConfig* c) {
  const bool is_of_scores = c->role == BackwardRole::bias || c->role == BackwardRole::slopes;
  const Tile* const tiles = is_of_scores ? kScoreTiles : kTiles;
  const size_t count = is_of_scores ? std::size(kScoreTiles) : std::size(kTiles);
  for (size_t n = 0; n < count; ++n) {
    if (!fits_registers(*c, tiles[n])) continue;
    set_layout(tiles[n], c);
    if (c->shared_bytes() <= device.shared_bytes) return {};
  }
  return unsupported("d %d and d_v %d need %d bytes of shared memory but GPU %d has %d for a block", c->d, c->d_v,
                     c->shared_bytes(), device.index, device.shared_bytes);
}

Status add_kernel(const Problem& p, const DeviceInfo& device, BackwardRole role, Sm80BackwardChoice* choice) {
  Sm80BackwardConfig c;
  c.role = role;
  set_features(p, &c);
  set_gradients(p, &c);
  c.sums_dq = role == BackwardRole::keys && !p.has_flag(FA_FLAG_DETERMINISTIC);
  FA_TRY(set_tile(device, &c));
  choice->shape.stat_tile = std::max(choice->shape.stat_tile, c.tile_q);
  choice->shape.copies_dout = c.copies_dout;
  if (c.sums_dq) choice->shape.sums_d = c.padded_d();
  choice->kernels.push_back(c);
  return {};
}

// Heads whose walked-over rows half of the L2 cache holds are swept together.
int section_of(const Problem& p, const DeviceInfo& device, const Sm80BackwardConfig& c, int heads) {
  int64_t bytes = (p.d + p.d_v) * dtype_bytes(p.dtype);
  if (c.sums_dq) bytes += p.d * 4;
  bytes *= c.walks_queries() ? p.max_s_q * p.group : p.max_s_k;
  return static_cast<int>(std::clamp<int64_t>(device.l2_bytes / 2 / std::max<int64_t>(bytes, 1), 1, std::max(heads, 1)));
}

}  // namespace

Status configure_sm80_backward(const Problem& p, const DeviceInfo& device, Sm80BackwardChoice* choice) {
  choice->shape = BackwardShape();
  choice->shape.stat_tile = 16;
  FA_TRY(add_kernel(p, device, BackwardRole::keys, choice));
  if (p.has_flag(FA_FLAG_DETERMINISTIC)) FA_TRY(add_kernel(p, device, BackwardRole::queries, choice));
  if (p.has_dbias) FA_TRY(add_kernel(p, device, BackwardRole::bias, choice));
  if (p.has_dslopes) FA_TRY(add_kernel(p, device, BackwardRole::slopes, choice));
  return {};
}

void cut_backward(const Problem& p, const DeviceInfo& device, const Sm80BackwardConfig& c, BackwardParams* params) {
  const bool is_by_keys = c.role == BackwardRole::keys;
  const int64_t tiles = is_by_keys ? count_tiles(p.max_s_k, c.tile_k) : count_tiles(p.max_s_q, c.tile_q);
  params->heads = static_cast<int>(p.b * (is_by_keys ? p.h_k : p.h_q));
  params->tiles_q = make_divisor(static_cast<unsigned>(std::max<int64_t>(tiles, 1)));
  params->section = section_of(p, device, c, params->heads);
  params->items = static_cast<int>(params->heads * tiles);
  if (c.role != BackwardRole::bias) return;
  const bool sums_rows = p.dbias.row == 0, sums_keys = p.dbias.key == 0;
  const bool sums_requests = p.packed_q ? sums_rows : p.dbias_batches == 1;
  params->bias_requests = sums_requests ? 1 : static_cast<int>(p.b);
  params->bias_heads = static_cast<int>(p.dbias_heads);
  params->bias_row_tiles = sums_rows ? 1 : static_cast<int>(count_tiles(p.packed_q ? p.max_s_q : p.dbias_rows, c.tile_q));
  params->bias_key_tiles = sums_keys ? 1 : static_cast<int>(count_tiles(p.dbias_columns, c.tile_k));
  params->items = params->bias_requests * params->bias_heads * params->bias_row_tiles * params->bias_key_tiles;
}

WorkspaceSize bound_sm80_backward_workspace(const Problem& p, const DeviceInfo&) {
  BackwardShape shape;
  shape.stat_tile = kTiles[0].q;
  shape.copies_dout = p.o_dtype != p.dtype;
  if (!p.has_flag(FA_FLAG_DETERMINISTIC)) shape.sums_d = round_up(static_cast<int>(p.d), Sm80BackwardConfig::kColumnUnit);
  WorkspaceSize size;
  size.scratch_bytes = backward_scratch_bytes(p, shape);
  return size;
}

}  // namespace flash_attn::cuda
