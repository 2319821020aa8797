// See sm90_config.h. Tiles were measured on an H200 (docs/notes/2026-11-24-hopper-forward.md); lengths only tell short problems,
// where whole rounds of tiles count, from long ones, where bytes per operation do.
#include "cuda/entries/sm90_config.h"

#include "cuda/entries/entry.h"
#include "cuda/entries/forward_choices.h"
#include "cuda/entries/forward_params.h"
#include "cuda/entries/sm80_config.h"
#include "cuda/entries/sm90_few_rows.h"
#include "cuda/entries/sm90_tuned.h"

#include <algorithm>

namespace flash_attn::cuda {
namespace {

constexpr int64_t kLongKeys = 1024;  // from here on, tall tiles with short key blocks
constexpr int64_t kMostItems = (int64_t{1} << 31) - 256;
constexpr int64_t kLeastSection = 16;

bool is_batch_invariant(const Problem& p) { return (p.flags & FA_FLAG_BATCH_INVARIANT) != 0; }

// ---- Tiles ----

// What a config asks of registers: so little that three warp groups share them, or scores that are shaped one by one.
struct Burden {
  bool is_lean;
  bool is_heavy, is_heaviest;
};

Burden burden_of(const Sm90ForwardConfig& c) {
  Burden burden;
  const bool reads_mask = c.has_bool_mask && (c.gathers_q || c.gathers_k);
  const int features = reads_mask + c.has_dropout + (c.bias_dtype != DType::none);
  burden.is_heavy = features > c.has_dropout;
  burden.is_heaviest = features > 1;
  const bool is_narrow = std::max(c.d, c.d_v) <= 64;
  // At d 128, distances from the diagonal take less time in tall key tiles of two groups.
  const bool is_full = c.has_alibi && (c.has_softcap || !is_narrow);
  burden.is_lean = !burden.is_heavy && (is_narrow || !c.has_dropout) && !c.has_bool_mask && !is_full && !c.has_tree &&
                   !c.is_scaled && !c.gathers_q && !c.gathers_k;
  return burden;
}

void share_registers(const Burden& burden, Sm90ForwardConfig* c) {
  const bool is_wide = c->d_v > 128;
  c->consumer_registers = 224, c->producer_registers = 56;
  if (c->groups == 1)
    c->consumer_registers = 240, c->producer_registers = 168;
  else if (burden.is_heaviest && c->has_bool_mask && !is_wide && !c->gathers_q && !c->gathers_k)
    c->consumer_registers = 200, c->producer_registers = 104;
  else if (burden.is_heavy)
    c->consumer_registers = 208, c->producer_registers = 88;
  else if (c->gathers_q || c->gathers_k || c->is_paged || c->has_bool_mask)
    c->consumer_registers = is_wide ? 216 : 208, c->producer_registers = is_wide ? 72 : 88;
}

void use_three_groups(int tile_k, Sm90ForwardConfig* c) {
  c->groups = 3;
  c->tile_k = tile_k;
  c->stages = 3;
  c->consumer_registers = 152;
  c->producer_registers = 56;
}

// Keys that the last, partly filled tile of a short request adds, as a share.
double waste_of(int64_t keys, int tile_k) {
  const int64_t tiled = (keys + tile_k - 1) / tile_k * tile_k;
  return static_cast<double>(tiled) / static_cast<double>(std::max<int64_t>(keys, 1));
}

// 32 registers do for a loader that looks up no pages, has one limit of keys to find, and draws items if it looks up lengths.
bool has_easy_loader(const Sm90ForwardConfig& c) {
  return c.mask != KeyMask::interval && !c.is_paged && (c.is_dynamic || !c.has_lengths);
}

// One q buffer and a little room for o, so that the next item's queries come in beneath this item's last softmax.
void stage_apart(Sm90ForwardConfig* c) {
  c->tile_k = 64;
  c->shares_q_buffer = false;
  c->q_buffers = 1;
  c->o_passes = (c->slabs_v() + 1) / 2;
  c->overlaps_tiles = true;
  c->takes_turns = c->mask == KeyMask::none;
}

// Wide heads: beyond 192 columns there is no room for two q buffers.
void tile_wide(const Problem& p, const Burden& burden, Sm90ForwardConfig* c) {
  c->overlaps_tiles = c->d <= 192 && c->d_v <= 192;
  const bool is_short = !is_batch_invariant(p) && waste_of(p.max_s_k, 80) > 1.04 * waste_of(p.max_s_k, 64);
  c->tile_k = c->is_paged || c->has_tree || c->groups == 1 || is_short || !c->overlaps_tiles ? 64 : 80;
  if (burden.is_heavy)
    c->tile_k = burden.is_heaviest ? 16 : 32;
  else if (c->has_dropout)
    c->tile_k = std::max(c->d, c->d_v) <= 192 ? 64 : (c->is_paged || c->gathers_q || c->gathers_k ? 32 : 48);
  c->shares_q_buffer = c->slabs_v() <= c->slabs();
  if (!c->shares_q_buffer && !c->gathers_q) c->tile_k = std::min(c->tile_k, c->is_paged ? 32 : 48), c->overlaps_tiles = false;
  c->q_buffers = c->overlaps_tiles ? 2 : 1;
  if (!burden.is_lean || c->groups != 2) return;
  if (!c->overlaps_tiles) {
    stage_apart(c);
  } else if (std::max(c->d, c->d_v) <= 160 && c->tile_k == 80) {
    stage_apart(c);
    c->tile_k = 96;
    c->takes_turns = false;
  }
}

void tile_narrow(const Burden& burden, bool is_tall, Sm90ForwardConfig* c) {
  c->tile_k = burden.is_heaviest ? 32 : (burden.is_heavy ? 64 : 128);
  c->stages = 4;
  c->rotates_rows = false;
  if (c->groups < 2 || !burden.is_lean || !is_tall) return;
  const bool is_easy = has_easy_loader(*c);
  const bool is_tight = c->is_paged || (c->has_softcap && c->mask == KeyMask::interval);
  use_three_groups(is_easy ? 128 : (is_tight ? 96 : 112), c);
  if (c->mask == KeyMask::interval) c->stages = 5;  // rows further down see other keys: warp groups drift apart
  c->takes_turns = true;
  if (is_easy) c->consumer_registers = 160, c->producer_registers = 32;
  if (c->has_dropout) c->tile_k = is_easy && !c->has_alibi && !c->has_softcap ? (c->mask == KeyMask::none ? 112 : 96) : 80;
}

// Registers that o leaves in heads of up to 112 columns hold taller key tiles, of which two fit.
void use_spare_columns(Sm90ForwardConfig* c) {
  const int widest = std::max(c->d, c->d_v);
  if (widest > 112 || c->has_softcap || !has_easy_loader(*c)) return;
  const bool is_full = c->mask == KeyMask::none;
  c->tile_k = widest <= 80 || (widest <= 96 && is_full) ? 112 : 96;
  c->stages = 2;
  c->takes_turns = widest <= 80 || widest > 96 || !is_full;
  if (widest > 80) c->consumer_registers = 160, c->producer_registers = 32;
}

void tile_middle(const Problem& p, const Burden& burden, bool is_long, Sm90ForwardConfig* c) {
  c->shares_q_buffer = c->slabs_v() <= c->slabs();
  // Pages' boxes would be of 16 rows in tiles of 80 keys: they stay in tall tiles of two groups.
  if (burden.is_lean && is_long && c->shares_q_buffer && c->groups == 2 && !c->is_paged) {
    use_three_groups(80, c);
    constexpr int64_t kNarrowWindow = 2048;
    if (c->mask == KeyMask::interval && !is_batch_invariant(p) && visible_keys(p) <= kNarrowWindow) c->tile_k = 64, c->stages = 4;
    use_spare_columns(c);
    return;
  }
  c->tile_k = burden.is_heaviest ? 32 : (burden.is_heavy ? 64 : 128);
  if (c->has_dropout) {
    c->tile_k = std::min(c->tile_k, c->is_paged ? 64 : (c->mask == KeyMask::none ? 128 : 112));
    c->takes_turns = c->mask == KeyMask::none;
  }
  // o gets a buffer of its own where there is room, so that the next tile need not wait for it.
  Sm90ForwardConfig own = *c;
  own.shares_q_buffer = false;
  constexpr int kMostShared = 232448;
  if (Sm90Layout(own).total <= kMostShared) *c = own;
}

// Fewer keys than a block has.
void shorten_blocks(int64_t keys, Sm90ForwardConfig* c) {
  for (const int few : {64, 32})
    if (keys <= few) c->tile_k = std::min(c->tile_k, few);
}

// The rules' schedule, then the tuned table's, then what the caller forces.
Status set_schedule(const Problem& p, const DeviceInfo& device, bool packs, Sm90ForwardConfig* c) {
  const int64_t rows = p.max_s_q * (packs ? p.group : 1);
  const Burden burden = burden_of(*c);
  const bool is_tall = is_batch_invariant(p) || rows > 128, is_long = is_batch_invariant(p) || p.max_s_k >= kLongKeys;
  c->groups = rows <= 64 && !is_batch_invariant(p) ? 1 : 2;
  c->stages = 2;
  c->rotates_rows = c->mask == KeyMask::right;
  c->takes_turns = c->shares_q_buffer = false;
  c->q_buffers = 2;
  c->o_passes = 1;
  c->overlaps_tiles = true;
  c->row_warps = c->gathers_q && !c->gathers_k;
  c->is_dynamic = (c->mask != KeyMask::none || c->has_lengths) && p.may_use_workspace;
  c->merges_splits = c->reads_once = false;
  c->blocks_per_sm = 1;
  share_registers(burden, c);
  const int widest = std::max(c->d, c->d_v);
  if (widest > 128)
    tile_wide(p, burden, c);
  else if (widest > 64)
    tile_middle(p, burden, is_tall && is_long, c);
  else
    tile_narrow(burden, is_tall, c);
  if (!is_batch_invariant(p)) shorten_blocks(visible_keys(p), c);
  if (is_batch_invariant(p) || !tile_few_keys(p, device, burden.is_heavy, c))
    if (c->groups == 1) tile_few_rows(p, device, packs, burden.is_heavy, c);
  if (c->has_bool_mask && c->tile_k > 32) c->tile_k -= c->tile_k % 32;  // words of bits
  // Fewer instructions, and a vote: no gain beside the products of wide heads, nor where two groups wait for a masked step.
  // Far from the diagonal, ALiBi makes scores negative on both sides.
  c->integer_tops = widest <= 128 && (c->mask == KeyMask::none ? !c->has_alibi : c->groups == 3);
  // tanh and the exponential share a unit, which takes twice as long as both products at d 64.
  c->polynomial_exp = c->has_softcap && widest <= 64 ? 1 : 0;
  // Rows of the table were measured where maps move the tensors, keys are not split and a block has its multiprocessor alone.
  if (!c->gathers_q && !c->gathers_k && !c->has_splits && c->blocks_per_sm == 1) apply_tuned_sm90(classify(p, device), c);
  while (Sm90Layout(*c).total > device.shared_bytes && c->stages > 2) --c->stages;
  while (Sm90Layout(*c).total > device.shared_bytes && c->tile_k > 16)
    c->tile_k = c->is_paged ? c->tile_k / 2 : c->tile_k - (c->has_bool_mask && c->tile_k > 32 ? 32 : 16);
  return apply_forced_sm90(p, c);
}

// ---- Stacking and splitting ----

// How full tiles of 128 rows (64, if that is all there are) are.
double fill_of(int64_t rows) {
  const int64_t tile = rows <= 64 ? 64 : 128, tiled = (rows + tile - 1) / tile * tile;
  return static_cast<double>(rows) / static_cast<double>(tiled);
}

bool packs_heads(const Problem& p) {
  if (p.group == 1 || p.dropout_p > 0 || is_batch_invariant(p)) return false;
  // Over very few keys an item is little more than moving its rows, which maps do better than threads.
  if (visible_keys(p) <= kFewKeys && fill_of(p.max_s_q) >= 0.5) return false;
  return fill_of(p.max_s_q) < 0.9 * fill_of(p.max_s_q * p.group);
}

void set_features(const Problem& p, Sm90ForwardConfig* c) {
  c->dtype = p.dtype;
  c->o_dtype = p.o_dtype;
  c->d = round_up_16(p.d);
  c->d_v = round_up_16(p.d_v);
  c->row_d = c->d;
  c->row_d_v = c->d_v;
  set_score_features(p, c);
  c->is_scaled = scales_scores(p);
}

// What threads need to know of the rows that they move.
void set_gathering(const Problem& p, Sm90Choice* choice) {
  Sm90ForwardConfig& c = choice->config;
  c.gathers_q = choice->obstacle_q != Obstacle::none;
  c.gathers_k = choice->obstacle_k != Obstacle::none;
  if (c.gathers_k) c.is_paged = false;
  c.access = 16;
  if (c.gathers_q) {
    c.row_d = static_cast<int>(p.d);
    c.row_d_v = static_cast<int>(p.d_v);
    c.access = access_of(p.q, 2, p.q_alignment);
    c.o_pairs = writes_pairs(p);
  }
  if (c.gathers_k) {
    c.row_d = static_cast<int>(p.d);
    c.row_d_v = static_cast<int>(p.d_v);
    c.access = std::min({c.access, access_of(p.k, 2, p.k_alignment), access_of(p.v, 2, p.v_alignment)});
  }
  c.shifts_units = c.gathers_k && c.access < 4;
}

// The config's schedule and maps, as far as the obstacles are known.
Status set_schedule_and_maps(const Problem& p, const DeviceInfo& device, Sm90Choice* choice) {
  set_gathering(p, choice);
  FA_TRY(set_schedule(p, device, choice->packs, &choice->config));
  if (p.kv_layout == KvLayout::paged)
    choice->maps = map_shapes(p, choice->config);  // whose rows are counted otherwise where threads move the pages
  else
    set_boxes(p, choice->config, &choice->maps);
  return {};
}

}  // namespace

Status choose_sm90(const Problem& p, const DeviceInfo& device, Sm90Choice* choice) {
  if (device.compute_capability != 90)
    return unsupported("it is made of sm_90a instructions and the device is of compute capability %d.%d",
                       device.compute_capability / 10, device.compute_capability % 10);
  FA_TRY(check_forward_features(p));
  if (p.dtype == DType::f32) return unsupported("dtype f32 has no matrix instructions of full precision");
  Sm90ForwardConfig& c = choice->config;
  set_features(p, &c);
  c.is_paged = p.kv_layout == KvLayout::paged;
  choice->packs = packs_heads(p);
  if (choice->packs) choice->obstacle_q = Obstacle::stacked_heads;
  // Boxes of pages divide the key tile, so there the schedule comes before what is in the way of maps; else it is made once.
  if (c.is_paged) FA_TRY(set_schedule_and_maps(p, device, choice));
  find_obstacles(p, choice->packs, c, &choice->maps, &choice->obstacle_q, &choice->obstacle_k);
  FA_TRY(set_schedule_and_maps(p, device, choice));
  choice->splits = choose_splits_sm90(p, device, choice->packs, c);
  if (choice->splits > 1) {
    c.has_splits = true;
    if (choice->obstacle_q == Obstacle::none) choice->obstacle_q = Obstacle::key_splits;
    FA_TRY(set_schedule_and_maps(p, device, choice));
    choice->splits = std::max(2, choose_splits_sm90(p, device, choice->packs, c));
  }
  choice->box_rows = c.is_paged ? choice->maps.k.box_rows : 0;
  choice->part_rows = c.merges_splits ? static_cast<int>(rows_of_tile(p, choice->packs, c.tile_q())) : 0;
  FA_TRY(check_schedule_sm90(c, device.shared_bytes));
  if (count_tiles(p, choice->packs, c.tile_q()) > kMostItems / choice->splits)
    return unsupported("%lld tiles of query rows and %d key splits are more than the %lld items of a launch",
                       static_cast<long long>(count_tiles(p, choice->packs, c.tile_q())), choice->splits,
                       static_cast<long long>(kMostItems));
  return {};
}

ForwardParams shape_sm90_params(const Problem& p, const DeviceInfo& device, const Sm90Choice& choice) {
  const Sm90ForwardConfig& c = choice.config;
  ForwardParams to = shape_params(p, choice.packs);
  cut_into_items(p, c.tile_q(), c.tile_k, choice.splits, &to);
  // Heads of a section are swept together, the longest tiles first: enough of them that the last section ends with all
  // multiprocessors at work, few enough that short keys stay in cache, in sections of one size. Without a mask a head's tiles
  // follow each other, as do heads of one key head.
  const int64_t heads = std::max(to.heads, 1), shared = to.slot_group.value;
  int64_t wanted = shared;
  if (c.mask != KeyMask::none) {
    const int64_t key_bytes = std::max<int64_t>(p.max_s_k * (p.d + p.d_v) * 2, 1);
    const int64_t busy = 4 * device.multiprocessors / int64_t{to.tiles_q.value}, cached = device.l2_bytes / 4 / key_bytes;
    wanted = std::max(kLeastSection, std::min(busy, cached));
  }
  const int64_t sections = std::max<int64_t>(1, heads / std::max<int64_t>(wanted, 1));
  const int64_t section = (heads + sections - 1) / sections;
  set_section(static_cast<int>(std::clamp<int64_t>((section + shared - 1) / shared * shared, 1, heads)), &to);
  return to;
}

Sm90Extras sm90_extras(const Sm90Choice& choice) {
  Sm90Extras extras;
  if (!choice.config.gathers_q) extras.batch_rows_q = static_cast<int>(batch_rows(choice.maps.q));
  if (!choice.config.gathers_k) extras.batch_rows_k = static_cast<int>(batch_rows(choice.maps.k));
  extras.box_rows = choice.box_rows;
  if (choice.box_rows > 0) extras.tile_boxes = choice.config.tile_k / choice.box_rows;
  extras.part_rows = choice.part_rows;
  return extras;
}

}  // namespace flash_attn::cuda
