// See sm90_few_rows.h (docs/notes/2026-11-24-hopper-decode.md).
#include "cuda/entries/sm90_few_rows.h"

#include "cuda/entries/forward_choices.h"
#include "cuda/entries/sm80_config.h"

#include <algorithm>

namespace flash_attn::cuda {
namespace {

constexpr int kMostSplits = 64, kMostStages = 8;
// Of a tile whose splits the kernel merges itself. 4 rows of 16 splits gained 3 us over a second launch, 8 rows 1.6 us; 16 rows
// lost, even of two splits.
constexpr int64_t kMostMergedRows = 8, kMostMergedParts = 128;

int64_t count_blocks(const Problem& p, int tile_k) { return (visible_keys(p) + tile_k - 1) / tile_k; }

// As many as one wave of blocks has room for: more and smaller items lost wherever they were measured.
int64_t count_splits(const Problem& p, const DeviceInfo& device, int64_t tiles, int tile_k) {
  if (const int asked = asked_splits(p, tile_k); asked > 0) return asked;
  const int64_t most = std::clamp<int64_t>(count_blocks(p, tile_k), 1, kMostSplits);
  return std::clamp<int64_t>(multiprocessors_of(p, device) / tiles, 1, most);
}

// May the kernel merge splits itself? Who finishes a tile's last one does it alone, as its multiprocessor's last work.
bool may_merge(const Problem& p, const DeviceInfo& device, bool packs, const Sm90ForwardConfig& c) {
  if (c.groups != 1 || c.gathers_k || (p.flags & FA_FLAG_BATCH_INVARIANT) != 0 || !p.may_use_workspace) return false;
  const int64_t tiles = count_tiles(p, packs, c.tile_q()), rows = rows_of_tile(p, packs, c.tile_q());
  if (tiles == 0) return false;
  const int64_t splits = count_splits(p, device, tiles, c.tile_k);
  return rows <= kMostMergedRows && rows * splits <= kMostMergedParts && tiles * splits <= multiprocessors_of(p, device);
}

bool is_plain(const Sm90ForwardConfig& c, bool is_heavy) {
  return !is_heavy && !c.has_splits && !c.has_dropout && !c.has_bool_mask && !c.has_tree && !c.has_alibi && !c.has_softcap &&
         c.mask != KeyMask::interval;
}

// An item over few keys is one chain of waits: other blocks of the multiprocessor work meanwhile, if there is room for them.
bool share_multiprocessor(const DeviceInfo& device, int blocks, Sm90ForwardConfig* c) {
  Sm90ForwardConfig shared = *c;
  shared.stages = 2;
  shared.blocks_per_sm = blocks;
  shared.consumer_registers = blocks == 3 ? 112 : 176, shared.producer_registers = blocks == 3 ? 48 : 80;
  constexpr int kReserved = 1024;  // the driver's, of each block
  if (blocks * (Sm90Layout(shared).total + kReserved) > device.shared_bytes_per_sm) return false;
  *c = shared;
  return true;
}

}  // namespace

int64_t count_tiles(const Problem& p, bool packs, int tile_q) {
  const int64_t rows = p.max_s_q * (packs ? p.group : 1);
  return p.b * (packs ? p.h_k : p.h_q) * ((rows + tile_q - 1) / tile_q);
}

int64_t rows_of_tile(const Problem& p, bool packs, int tile_q) {
  return std::min<int64_t>(tile_q, p.max_s_q * (packs ? p.group : 1));
}

bool tile_few_keys(const Problem& p, const DeviceInfo& device, bool is_heavy, Sm90ForwardConfig* c) {
  // Threads that read keys spill with 48 registers; at d 128 products do not compile for so many threads.
  if (!is_plain(*c, is_heavy) || c->gathers_k || std::max(c->d, c->d_v) > 64 || visible_keys(p) > kFewKeys) return false;
  Sm90ForwardConfig few = *c;
  few.groups = 1;
  few.takes_turns = false;
  few.is_dynamic = p.may_use_workspace;
  if (!share_multiprocessor(device, 3, &few)) return false;
  *c = few;
  return true;
}

void tile_few_rows(const Problem& p, const DeviceInfo& device, bool packs, bool is_heavy, Sm90ForwardConfig* c) {
  const int64_t tiles = count_tiles(p, packs, c->tile_q());
  if (c->tile_k > 64 && tiles * count_blocks(p, c->tile_k) < multiprocessors_of(p, device)) c->tile_k = 64;
  c->merges_splits = c->has_splits && may_merge(p, device, packs, *c);
  if (c->has_splits && !c->merges_splits) {  // a second launch merges: nothing below was measured to gain there
    c->row_warps = false;
    return;
  }
  c->is_dynamic = p.may_use_workspace;
  c->reads_once = packs || p.group == 1;
  c->shares_q_buffer = c->slabs_v() <= c->slabs();
  if (c->shares_q_buffer || c->gathers_q) c->q_buffers = 2, c->overlaps_tiles = true;
  if (is_plain(*c, is_heavy) && std::max(c->d, c->d_v) <= 128 && count_blocks(p, c->tile_k) <= 2 &&
      share_multiprocessor(device, 2, c))
    return;
  for (Sm90ForwardConfig deeper = *c; deeper.stages < kMostStages;) {
    ++deeper.stages;
    if (Sm90Layout(deeper).total > device.shared_bytes) break;
    *c = deeper;
  }
}

int choose_splits_sm90(const Problem& p, const DeviceInfo& device, bool packs, const Sm90ForwardConfig& c) {
  const int64_t tiles = count_tiles(p, packs, c.tile_q()), blocks = count_blocks(p, c.tile_k);
  if (const int asked = asked_splits(p, c.tile_k); asked > 0) return asked;
  if (tiles == 0 || 2 * tiles > multiprocessors_of(p, device) || blocks <= 4) return 1;
  const int64_t splits = count_splits(p, device, tiles, c.tile_k);
  return static_cast<int>(may_merge(p, device, packs, c) ? splits : std::min(splits, blocks / 2));
}

size_t part_bytes_sm90(int64_t rows, int64_t d_v) {
  return static_cast<size_t>(rows) * static_cast<size_t>(round_up_16(d_v) + 2) * 4;
}

WorkspaceSize bound_sm90_workspace(const Problem& maxima, const DeviceInfo& device) {
  // Its tiles are no shorter and its splits no fewer than where a kernel of its own merges them.
  WorkspaceSize size = bound_sm80_workspace(maxima, device);
  // Those that this kernel merges are of one wave of blocks, of tiles of two splits at least.
  size.state_bytes = kSm90CounterBytes + static_cast<size_t>(device.multiprocessors / 2) * sizeof(unsigned);
  if (asked_splits(maxima, 1) != 1)
    size.scratch_bytes = std::max(size.scratch_bytes, part_bytes_sm90(kMostMergedRows * device.multiprocessors, maxima.d_v));
  return size;
}

}  // namespace flash_attn::cuda
