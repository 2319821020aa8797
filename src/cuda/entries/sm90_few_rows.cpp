// See sm90_few_rows.h (docs/notes/2026-11-24-hopper-decode.md).
#include "cuda/entries/sm90_few_rows.h"

#include "cuda/entries/forward_choices.h"
#include "cuda/entries/sm80_config.h"

#include <algorithm>

namespace flash_attn::cuda {
namespace {

constexpr int kMostSplits = 64, kMostStages = 8;
// Of splits that the kernel merges itself: tiles for each multiprocessor, from which on keys are not split; items for each, so that
// all end together; steps of an item, less only where multiprocessors would idle; a tile's rows times its splits; and rows of
// partial results for each multiprocessor.
constexpr int64_t kMergedTiles = 8, kMergedItems = 8, kLeastSteps = 4, kMostMergedParts = 512, kMostPartRows = 256;

int64_t count_blocks(const Problem& p, int tile_k) { return (visible_keys(p) + tile_k - 1) / tile_k; }

}  // namespace

int64_t count_tiles(const Problem& p, bool packs, int tile_q) {
  const int64_t rows = p.max_s_q * (packs ? p.group : 1);
  return p.b * (packs ? p.h_k : p.h_q) * ((rows + tile_q - 1) / tile_q);
}

int64_t rows_of_tile(const Problem& p, bool packs, int tile_q) {
  return std::min<int64_t>(tile_q, p.max_s_q * (packs ? p.group : 1));
}

bool may_merge(const Problem& p, const DeviceInfo& device, bool packs, const Sm90ForwardConfig& c) {
  if (c.groups != 1 || c.gathers_k || (p.flags & FA_FLAG_BATCH_INVARIANT) != 0 || !p.may_use_workspace) return false;
  const int64_t tiles = count_tiles(p, packs, c.tile_q()), multiprocessors = multiprocessors_of(p, device);
  if (tiles == 0 || tiles >= kMergedTiles * multiprocessors) return false;
  const int64_t asked = asked_splits(p, c.tile_k);
  const int64_t splits = asked > 0 ? asked : std::clamp<int64_t>(multiprocessors / tiles, 1, kMostSplits);
  return rows_of_tile(p, packs, c.tile_q()) * splits <= kMostMergedParts;
}

void tile_few_rows(const Problem& p, const DeviceInfo& device, bool packs, bool is_heavy, Sm90ForwardConfig* c) {
  const int64_t tiles = count_tiles(p, packs, c->tile_q()), multiprocessors = multiprocessors_of(p, device);
  c->is_dynamic = p.may_use_workspace;
  c->reads_once = packs || p.group == 1;
  if (c->tile_k > 64 && tiles * count_blocks(p, c->tile_k) < multiprocessors) c->tile_k = 64;
  c->shares_q_buffer = c->slabs_v() <= c->slabs();
  if (c->shares_q_buffer || c->gathers_q) c->q_buffers = 2, c->overlaps_tiles = true;
  const bool is_plain = !is_heavy && !c->has_dropout && !c->has_bool_mask && !c->has_tree && !c->has_alibi && !c->has_softcap &&
                        c->mask != KeyMask::interval && std::max(c->d, c->d_v) <= 128;
  if (is_plain && !c->has_splits && count_blocks(p, c->tile_k) <= 2) {
    Sm90ForwardConfig two = *c;
    two.stages = 2;
    two.blocks_per_sm = 2;
    two.consumer_registers = 176, two.producer_registers = 80;
    constexpr int kReserved = 1024;  // the driver's, of each block
    if (2 * (Sm90Layout(two).total + kReserved) <= device.shared_bytes_per_sm) {
      *c = two;
      return;
    }
  }
  for (Sm90ForwardConfig deeper = *c; deeper.stages < kMostStages;) {
    ++deeper.stages;
    if (Sm90Layout(deeper).total > device.shared_bytes) break;
    *c = deeper;
  }
}

int choose_splits_sm90(const Problem& p, const DeviceInfo& device, bool packs, const Sm90ForwardConfig& c) {
  if (const int asked = asked_splits(p, c.tile_k); asked > 0) return asked;
  const int64_t tiles = count_tiles(p, packs, c.tile_q()), blocks = count_blocks(p, c.tile_k);
  const int64_t multiprocessors = multiprocessors_of(p, device);
  if (tiles == 0) return 1;
  if (may_merge(p, device, packs, c)) {
    const int64_t rows = rows_of_tile(p, packs, c.tile_q());
    const int64_t most =
        std::min({int64_t{kMostSplits}, blocks, kMostMergedParts / rows, kMostPartRows * multiprocessors / (tiles * rows)});
    const int64_t even = std::min((kMergedItems * multiprocessors + tiles - 1) / tiles, blocks / kLeastSteps);
    const int64_t splits = std::max<int64_t>(1, std::min(most, std::max(even, multiprocessors / tiles)));
    const int64_t steps = std::max<int64_t>(1, (blocks + splits - 1) / splits);
    return static_cast<int>(std::max<int64_t>(1, (blocks + steps - 1) / steps));
  }
  if (2 * tiles > multiprocessors || blocks <= 4) return 1;
  return static_cast<int>(std::clamp<int64_t>(multiprocessors / tiles, 1, std::min<int64_t>(kMostSplits, blocks / 2)));
}

size_t part_bytes_sm90(int64_t rows, int64_t d_v) {
  return static_cast<size_t>(rows) * static_cast<size_t>(round_up_16(d_v) + 2) * 4;
}

WorkspaceSize bound_sm90_workspace(const Problem& maxima, const DeviceInfo& device) {
  // Its tiles are no shorter and its splits no fewer than where a kernel of its own merges them.
  WorkspaceSize size = bound_sm80_workspace(maxima, device);
  size.state_bytes = kSm90CounterBytes + static_cast<size_t>(kMergedTiles * device.multiprocessors) * sizeof(unsigned);
  // Where the caller sets the splits, one tile a head slot, as many splits as one tile's rows allow.
  int64_t rows = kMostPartRows * device.multiprocessors;
  if (!splits_freely(maxima)) {
    int64_t splits = maxima.num_splits;
    if (maxima.split_size > 0) splits = (maxima.max_s_k + maxima.split_size - 1) / maxima.split_size;
    rows = splits <= 1 ? 0 : maxima.b * maxima.h_q * std::min<int64_t>(maxima.max_s_q, 64) * std::min(splits, kMostMergedParts);
    rows = std::min(rows, kMergedTiles * device.multiprocessors * kMostMergedParts);
  }
  size.scratch_bytes = std::max(size.scratch_bytes, part_bytes_sm90(rows, maxima.d_v));
  return size;
}

}  // namespace flash_attn::cuda
