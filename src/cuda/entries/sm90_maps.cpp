// See sm90_maps.h.
#include "cuda/entries/sm90_maps.h"

#include "core/status.h"

#include <numeric>

namespace flash_attn::cuda {
namespace {

constexpr int64_t kMostMapRows = 0x7fff0000;
constexpr int kLeastBoxRows = 8;  // shorter boxes cost more than the threads' own copies

Obstacle find_rows_obstacle(const MapShape& one, const MapShape& other) {
  if (!one.has_lengths) return Obstacle::none;
  if (batch_rows(one) != batch_rows(other)) return Obstacle::differing_rows;
  return one.batches * batch_rows(one) > kMostMapRows ? Obstacle::too_many_rows : Obstacle::none;
}

Obstacle find_query_obstacle(const Problem& p, const Sm90Maps& maps) {
  if (p.o_dtype != p.dtype) return Obstacle::o_dtype;
  if (find_fault(maps.q, p.q_alignment) != MapFault::none || find_fault(maps.o, p.o_alignment) != MapFault::none)
    return Obstacle::map;
  return find_rows_obstacle(maps.q, maps.o);
}

Obstacle find_key_obstacle(const Problem& p, const Sm90Maps& maps) {
  if (p.kv_layout == KvLayout::pointers) return Obstacle::pointers;
  if (find_fault(maps.k, p.k_alignment) != MapFault::none || find_fault(maps.v, p.v_alignment) != MapFault::none)
    return Obstacle::map;
  if (p.kv_layout == KvLayout::paged) {
    if (p.has_input(FA_INPUT_LEFTPAD_K)) return Obstacle::left_padding;
    if (maps.k.box_rows < kLeastBoxRows) return Obstacle::low_boxes;
  }
  return find_rows_obstacle(maps.k, maps.v);
}

// The maps that would move the tensors if threads need not.
Sm90Maps unobstructed_maps(const Problem& p, const Sm90ForwardConfig& chosen) {
  Sm90ForwardConfig c = chosen;
  c.is_paged = p.kv_layout == KvLayout::paged;
  return map_shapes(p, c);
}

// `map`: what is in the way of the maps of two tensors.
std::string obstacle_text(const Problem& p, Obstacle obstacle, const Status& map) {
  switch (obstacle) {
    case Obstacle::none:
      break;
    case Obstacle::stacked_heads:
      return "query heads that share a key head are stacked";
    case Obstacle::key_splits:
      return "key splits leave partial results";
    case Obstacle::o_dtype:
      return "o has another dtype than q";
    case Obstacle::map:
      return map.message();
    case Obstacle::differing_rows:
      return "the two have different numbers of rows between batches";
    case Obstacle::too_many_rows:
      return format_text("all batches together have more than %lld rows", static_cast<long long>(kMostMapRows));
    case Obstacle::pointers:
      return "k and v are given by pointers";
    case Obstacle::left_padding:
      return "left padding moves a page's rows against the key tiles";
    case Obstacle::low_boxes:
      return format_text("page_size %lld leaves boxes of fewer than %d rows", static_cast<long long>(p.page_size), kLeastBoxRows);
  }
  return {};
}

}  // namespace

int64_t batch_rows(const MapShape& map) { return map.batches > 1 ? map.axes.batch / map.axes.row : 0; }

void find_obstacles(const Problem& p, bool packs, const Sm90ForwardConfig& config, Sm90Maps* maps, Obstacle* q, Obstacle* k) {
  *maps = map_shapes(p, config);
  *q = packs ? Obstacle::stacked_heads : find_query_obstacle(p, *maps);
  *k = find_key_obstacle(p, *maps);
}

void set_boxes(const Problem& p, const Sm90ForwardConfig& c, Sm90Maps* maps) {
  maps->k.box_rows = maps->v.box_rows = c.is_paged ? static_cast<int>(std::gcd(p.page_size, int64_t{c.tile_k})) : c.tile_k;
}

Sm90Maps map_shapes(const Problem& p, const Sm90ForwardConfig& c) {
  Sm90Maps maps;
  const auto fill = [&](MapShape* map, const Axes& axes, bool is_packed, int64_t batches, int64_t rows, int64_t heads,
                        int64_t columns) {
    map->dtype = p.dtype;
    map->axes = axes;
    map->batches = is_packed ? 1 : batches;
    map->rows = rows;
    map->heads = heads;
    map->columns = columns;
    map->has_lengths = c.has_lengths || c.is_paged;
    // There all batches' rows are one dimension: a single row's own stride, which may be anything, is that of the batches.
    if (map->has_lengths && rows <= 1 && map->batches > 1) map->axes.row = axes.batch;
  };
  const int64_t rows_q = p.packed_q ? p.total_q : p.max_s_q;
  fill(&maps.q, p.q, p.packed_q, p.b, rows_q, p.h_q, p.d);
  fill(&maps.o, p.o, p.packed_q, p.b, rows_q, p.h_q, p.d_v);
  fill(&maps.k, p.k, p.packed_k, p.k_batch, p.k_rows, p.h_k, p.d);
  fill(&maps.v, p.v, p.packed_k, p.k_batch, p.k_rows, p.h_k, p.d_v);
  maps.q.box_rows = maps.o.box_rows = 64;
  set_boxes(p, c, &maps);
  return maps;
}

std::string query_obstacle_text(const Problem& p, const Sm90ForwardConfig& config, Obstacle obstacle) {
  const Sm90Maps maps = unobstructed_maps(p, config);
  const Status q = check_map("q", maps.q, p.q_alignment);
  return obstacle_text(p, obstacle, q.ok() ? check_map("o", maps.o, p.o_alignment) : q);
}

std::string key_obstacle_text(const Problem& p, const Sm90ForwardConfig& config, Obstacle obstacle) {
  const Sm90Maps maps = unobstructed_maps(p, config);
  const Status k = check_map("k", maps.k, p.k_alignment);
  return obstacle_text(p, obstacle, k.ok() ? check_map("v", maps.v, p.v_alignment) : k);
}

}  // namespace flash_attn::cuda
