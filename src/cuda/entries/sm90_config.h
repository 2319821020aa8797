// The choices of the Hopper forward kernel, as functions of the problem and the device alone: what it serves, its configuration,
// how a run is cut into items, and how tensors lie in its maps.
#pragma once

#include "core/problem.h"
#include "core/status.h"
#include "cuda/device.h"
#include "cuda/kernels/sm90_configs.h"
#include "cuda/tensormap.h"

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

struct Sm90Choice {
  Sm90ForwardConfig config;
  bool packs = false;  // the query heads of a key head are stacked
  int splits = 1;
  int box_rows = 0;  // of a paged cache's boxes
  Sm90Maps maps;
  Obstacle obstacle_q = Obstacle::none;  // to maps of q and o
  Obstacle obstacle_k = Obstacle::none;  // to maps of k and v
};

// ok if the kernel serves the problem on the device, else the reason.
Status choose_sm90(const Problem& problem, const DeviceInfo& device, Sm90Choice* choice);

// The choice's obstacles in words.
std::string obstacle_text_q(const Problem& problem, const Sm90Choice& choice);
std::string obstacle_text_k(const Problem& problem, const Sm90Choice& choice);

// Everything but pointers.
ForwardParams shape_sm90_params(const Problem& problem, const DeviceInfo& device, const Sm90Choice& choice);
Sm90Extras sm90_extras(const Sm90Choice& choice);

}  // namespace flash_attn::cuda
