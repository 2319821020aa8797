// See sm80_bwd_config.h. Nothing here depends on a length but the number of items.
#include "cuda/entries/sm80_bwd_config.h"

#include "cuda/entries/forward_params.h"
#include "cuda/entries/sm80_config.h"
#include "cuda/entries/tuning.h"

#include <algorithm>
#include <cstdint>

namespace flash_attn::cuda {
namespace {

// Tiles in the order of preference; a kernel takes the first that its registers and the device's shared memory allow. Small blocks
// beside each other beat one large block on an H200 (docs/notes/2026-11-24-gpu-backward-mma.md).
struct Tile {
  int q, k, warps, stages, blocks;
};
constexpr Tile kTiles[] = {{64, 64, 4, 2, 3}, {64, 64, 4, 1, 3}, {64, 64, 4, 2, 2}, {64, 64, 4, 1, 2}, {64, 64, 8, 2, 1},
                           {64, 64, 8, 1, 1}, {32, 32, 4, 2, 1}, {32, 32, 4, 1, 1}, {16, 16, 2, 1, 1}};
// The other roles make no products of dS, and so take small blocks.
constexpr Tile kScoreTiles[] = {{64, 64, 4, 1, 1}, {32, 32, 4, 1, 1}, {16, 16, 2, 1, 1}};

// Tiles whose flags a block of the role renew looks at.
constexpr int kFlagsOfItem = 32;

// What a caller forces behind the kernel's name, of the roles keys and queries: "sm80_bwd:unroll_scores=8,blocks_per_sm=2".
struct Forced {
  Sm80BackwardConfig config;
  int section = 1;  // heads that are swept together

  template <class Visitor>
  constexpr void fields(Visitor&& visit) const {
    config.fields(visit);
    visit("section", section);
  }
  Status read(const Problem& p) {
    return apply_forced_fields(p.kernel,
                               {"tile_q", "tile_k", "warps", "score_warps", "key_warps", "query_warps", "stages", "unroll_scores",
                                "unroll", "unroll_dq", "blocks_per_sm", "walks_back", "section"},
                               this);
  }
};

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
  c->loops_items = p.sm_limit > 0;
  set_score_features(p, c);
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

int larger_dim(const Sm80BackwardConfig& c) { return std::max(c.padded_d(), c.padded_d_v()); }

bool is_lean(const Sm80BackwardConfig& c) {
  return !finishes_scores(c) && !c.has_dropout && c.mask != KeyMask::interval && c.access == 16 && !c.copies_dout;
}

bool is_rich(const Sm80BackwardConfig& c) { return c.has_tree || (finishes_scores(c) && c.has_dropout); }

// Does a tile leave room in registers beside the accumulators and what the features need?
bool fits_registers(const Sm80BackwardConfig& c, const Tile& tile) {
  if (c.dtype == DType::f32) return tile.q <= 32;
  if (tile.q < 64) return true;
  const int dim = larger_dim(c);
  if (tile.warps == 8) return dim <= 128 || !is_rich(c);
  if (c.role != BackwardRole::keys && c.role != BackwardRole::queries) return true;
  if (tile.blocks == 3) return dim <= 64 && is_lean(c) && c.role == BackwardRole::keys && c.sums_dq;
  return dim <= 64 ? !is_rich(c) : dim <= 128 && is_lean(c);
}

// How the warps share a tile's scores and the gradients: as square as columns can be divided.
void set_layout(const Tile& tile, Sm80BackwardConfig* c) {
  c->tile_q = tile.q;
  c->tile_k = tile.k;
  c->warps = tile.warps;
  c->stages = tile.stages;
  c->blocks_per_sm = tile.blocks;
  c->unroll = c->unroll_dq = is_lean(*c) && !c->has_lengths && !c->loops_items && larger_dim(*c) <= 128 ? 2 : 1;
  c->unroll_scores = 2 * c->unroll;
  // Three small blocks: laid out wholly, products of narrow heads need no more registers.
  if (tile.blocks == 3) c->unroll = c->unroll_dq = c->unroll_scores = 4;
  const auto along_rows = [&](int rows, bool divides_columns_by_four) {
    if (rows == 64 && tile.warps == 8) return divides_columns_by_four ? 2 : 4;
    return std::min(2, rows / 16);
  };
  c->score_warps = tile.q == 16 ? 1 : tile.warps == 8 && larger_dim(*c) > 128 ? 4 : 2;
  c->key_warps = along_rows(tile.k, c->padded_d() % 64 == 0 && c->padded_d_v() % 64 == 0);
  c->query_warps = along_rows(tile.q, c->padded_d() % 64 == 0);
}

bool fits_shared_memory(const Sm80BackwardConfig& c, const DeviceInfo& device) {
  constexpr int kReserved = 1024;  // the driver's, of each block
  return c.shared_bytes() <= device.shared_bytes && c.blocks_per_sm * (c.shared_bytes() + kReserved) <= device.shared_bytes_per_sm;
}

// Do the parts of the warps come out even? Pairs of tiles of 8 columns, strips of 16 rows.
bool has_even_parts(const Sm80BackwardConfig& c) {
  const auto is_size = [](int x, int most) { return x >= 1 && x <= most && (x & (x - 1)) == 0; };
  for (const int part : {c.warps, c.score_warps, c.key_warps, c.query_warps})
    if (!is_size(part, 8) || part > c.warps) return false;
  if (!is_size(c.tile_q, 128) || !is_size(c.tile_k, 128)) return false;
  const auto divides = [](int unit, int x) { return x % unit == 0; };
  return divides(16 * c.score_warps, c.tile_q) && divides(16 * c.warps / c.score_warps, c.tile_k) &&
         divides(16 * c.key_warps, c.tile_k) && divides(16 * c.query_warps, c.tile_q) &&
         divides(16 * c.warps / c.key_warps, c.padded_d()) && divides(16 * c.warps / c.key_warps, c.padded_d_v()) &&
         divides(16 * c.warps / c.query_warps, c.padded_d());
}

Status set_forced(const Problem& p, const DeviceInfo& device, Sm80BackwardConfig* c) {
  Forced forced = {*c};
  FA_TRY(forced.read(p));
  if (forced_fields_of(p.kernel).empty() || (c->role != BackwardRole::keys && c->role != BackwardRole::queries)) return {};
  *c = forced.config;
  c->walks_back = c->walks_back && c->role == BackwardRole::keys;
  const bool is_sound = has_even_parts(*c) && (c->stages == 1 || c->stages == 2) && c->blocks_per_sm >= 1 && c->unroll >= 1 &&
                        c->unroll_scores >= 1 && c->unroll_dq >= 1;
  if (!is_sound || !fits_shared_memory(*c, device))
    return invalid("kernel is \"%s\" but no kernel for d %d and d_v %d has these fields", p.kernel.c_str(), c->d, c->d_v);
  return {};
}

// On an H200, products of wide heads that are laid out wholly gain 5 to 10 %, as loads get in among them.
void lay_out_products(Sm80BackwardConfig* c) {
  if (!is_lean(*c) || c->has_lengths || c->loops_items || c->tile_q < 64) return;
  const int dim = larger_dim(*c);
  if (dim > 64) c->unroll_scores = dim > 128 ? 16 : 8, c->unroll = 4, c->unroll_dq = 2;
  const bool is_causal = c->mask == KeyMask::right;
  c->walks_back = c->role == BackwardRole::keys && (dim <= 64 || (dim > 128 ? is_causal : !is_causal));
}

Status set_tile(const DeviceInfo& device, Sm80BackwardConfig* c) {
  const bool is_of_scores = c->role != BackwardRole::keys && c->role != BackwardRole::queries;
  const Tile* const tiles = is_of_scores ? kScoreTiles : kTiles;
  const size_t count = is_of_scores ? std::size(kScoreTiles) : std::size(kTiles);
  for (size_t n = 0; n < count; ++n) {
    if (!fits_registers(*c, tiles[n])) continue;
    set_layout(tiles[n], c);
    // Where registers are fewest, products are not unrolled.
    if (device.compute_capability >= 100) c->unroll = c->unroll_dq = 1, c->unroll_scores = 2;
    if (device.compute_capability == 90 && !is_of_scores) lay_out_products(c);
    if (fits_shared_memory(*c, device)) return {};
  }
  return unsupported("d %d and d_v %d need %d bytes of shared memory but GPU %d has %d for a block", c->d, c->d_v,
                     c->shared_bytes(), device.index, device.shared_bytes);
}

// Is dq summed by the blocks that own keys? Where that takes more registers than there are, a kernel of its own makes it, as where
// determinism is asked for.
bool sums_dq(const Problem& p) {
  Sm80BackwardConfig c;
  set_features(p, &c);
  return !p.has_flag(FA_FLAG_DETERMINISTIC) && (larger_dim(c) <= 128 || !is_rich(c));
}

Status add_kernel(const Problem& p, const DeviceInfo& device, BackwardRole role, Sm80BackwardChoice* choice) {
  Sm80BackwardConfig c;
  c.role = role;
  set_features(p, &c);
  set_gradients(p, &c);
  c.sums_dq = role == BackwardRole::keys && sums_dq(p);
  FA_TRY(set_tile(device, &c));
  FA_TRY(set_forced(p, device, &c));
  choice->shape.stat_tile = std::max(choice->shape.stat_tile, c.tile_q);
  choice->shape.copies_dout = c.copies_dout;
  if (c.sums_dq) choice->shape.sums_d = c.padded_d();
  choice->kernels.add(c);
  return {};
}

// Heads whose walked-over rows half of the L2 cache holds are swept together; under causal masks enough of them that the last ones'
// long blocks do not come last.
int section_of(const Problem& p, const DeviceInfo& device, const Sm80BackwardConfig& c, int heads) {
  int64_t bytes = (p.d + p.d_v) * dtype_bytes(p.dtype);
  if (c.sums_dq) bytes += p.d * 4;
  bytes *= c.walks_queries() ? p.max_s_q * p.group : p.max_s_k;
  constexpr int64_t kLeastCausal = 16;
  const int64_t least = c.mask == KeyMask::right ? kLeastCausal : 1;
  const int64_t section = std::max<int64_t>(device.l2_bytes / 2 / std::max<int64_t>(bytes, 1), least);
  return static_cast<int>(std::clamp<int64_t>(section, 1, std::max(heads, 1)));
}

}  // namespace

Status configure_sm80_backward(const Problem& p, const DeviceInfo& device, Sm80BackwardChoice* choice) {
  choice->shape = BackwardShape();
  choice->shape.stat_tile = 16;
  FA_TRY(add_kernel(p, device, BackwardRole::renew, choice));
  FA_TRY(add_kernel(p, device, BackwardRole::keys, choice));
  if (!sums_dq(p)) FA_TRY(add_kernel(p, device, BackwardRole::queries, choice));
  if (p.has_dbias) FA_TRY(add_kernel(p, device, BackwardRole::bias, choice));
  if (p.has_dslopes) FA_TRY(add_kernel(p, device, BackwardRole::slopes, choice));
  for (Sm80BackwardConfig& c : choice->kernels) c.stat_tile = choice->shape.stat_tile;
  return {};
}

void BackwardCut::write(BackwardParams* params) const {
  params->heads = heads;
  params->tiles_q = tiles_q;
  params->section = section;
  params->items = items;
  params->bias_requests = bias_requests;
  params->bias_heads = bias_heads;
  params->bias_row_tiles = bias_row_tiles;
  params->bias_key_tiles = bias_key_tiles;
}

BackwardCut cut_backward(const Problem& p, const DeviceInfo& device, const Sm80BackwardConfig& c) {
  BackwardCut cut;
  const bool is_by_keys = c.role == BackwardRole::keys;
  const int64_t tiles = is_by_keys ? count_tiles(p.max_s_k, c.tile_k) : count_tiles(p.max_s_q, c.tile_q);
  cut.heads = static_cast<int>(p.b * (is_by_keys ? p.h_k : p.h_q));
  cut.tiles_q = make_divisor(static_cast<unsigned>(std::max<int64_t>(tiles, 1)));
  Forced forced = {c, section_of(p, device, c, cut.heads)};
  (void)forced.read(p);  // what cannot be read was refused when the kernel was chosen
  cut.section = std::clamp(forced.section, 1, std::max(cut.heads, 1));
  cut.items = static_cast<int>(cut.heads * tiles);
  if (c.role == BackwardRole::renew)
    cut.items = static_cast<int>(count_tiles(p.b * p.h_q * count_tiles(p.max_s_q, c.stat_tile), kFlagsOfItem));
  if (c.role != BackwardRole::bias) return cut;
  const bool sums_rows = p.dbias.row == 0, sums_keys = p.dbias.key == 0;
  const bool sums_requests = p.packed_q ? sums_rows : p.dbias_batches == 1;
  cut.bias_requests = sums_requests ? 1 : static_cast<int>(p.b);
  cut.bias_heads = static_cast<int>(p.dbias_heads);
  cut.bias_row_tiles = sums_rows ? 1 : static_cast<int>(count_tiles(p.packed_q ? p.max_s_q : p.dbias_rows, c.tile_q));
  cut.bias_key_tiles = sums_keys ? 1 : static_cast<int>(count_tiles(p.dbias_columns, c.tile_k));
  cut.items = cut.bias_requests * cut.bias_heads * cut.bias_row_tiles * cut.bias_key_tiles;
  return cut;
}

WorkspaceSize bound_sm80_backward_workspace(const Problem& p, const DeviceInfo&) {
  BackwardShape shape;
  // Tiles differ with features and dims: the tallest has the most rows to spare.
  shape.stat_tile = kTiles[0].q;
  Forced forced;
  forced.config.tile_q = shape.stat_tile;
  if (forced.read(p).ok()) shape.stat_tile = std::max(shape.stat_tile, forced.config.tile_q);
  shape.copies_dout = p.o_dtype != p.dtype;
  if (!p.has_flag(FA_FLAG_DETERMINISTIC)) shape.sums_d = round_up(static_cast<int>(p.d), Sm80BackwardConfig::kColumnUnit);
  WorkspaceSize size;
  size.scratch_bytes = backward_scratch_bytes(p, shape);
  return size;
}

}  // namespace flash_attn::cuda
