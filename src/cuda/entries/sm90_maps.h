// How tensors lie in the Hopper forward kernel's maps, and why threads move them where maps cannot or do not.
#pragma once

#include "core/problem.h"
#include "cuda/kernels/sm90_configs.h"
#include "cuda/tensormap.h"

#include <cstdint>
#include <string>

namespace flash_attn::cuda {

struct Sm90Maps {
  MapShape q, k, v, o;
};

// Why threads move a tensor's rows, and not maps.
enum class Obstacle {
  none,
  stacked_heads,
  key_splits,
  o_dtype,
  map,             // TMA cannot describe one of the two tensors
  differing_rows,  // between batches, of the two tensors that share an index
  too_many_rows,
  pointers,
  left_padding,
  low_boxes,
};

// Of the config's lengths, pages and key tile.
Sm90Maps map_shapes(const Problem& problem, const Sm90ForwardConfig& config);
// Rows of a box of keys: all that the key tile changes about maps.
void set_boxes(const Problem& problem, const Sm90ForwardConfig& config, Sm90Maps* maps);

// The maps, and what of the tensors stands in their way: of q and o, whose heads are stacked if the plan `packs` them, and of k and
// v.
void find_obstacles(const Problem& problem, bool packs, const Sm90ForwardConfig& config, Sm90Maps* maps, Obstacle* q, Obstacle* k);

// In words, for a config that was chosen with the obstacle.
std::string query_obstacle_text(const Problem& problem, const Sm90ForwardConfig& config, Obstacle obstacle);
std::string key_obstacle_text(const Problem& problem, const Sm90ForwardConfig& config, Obstacle obstacle);

// Rows from one batch, or page, to the next.
int64_t batch_rows(const MapShape& map);

}  // namespace flash_attn::cuda
