// The choices of the Hopper forward kernel, as functions of the problem and the device alone: what it serves, its configuration,
// and how a run is cut into items.
#pragma once

#include "core/problem.h"
#include "core/status.h"
#include "cuda/device.h"
#include "cuda/entries/sm90_maps.h"
#include "cuda/kernels/sm90_configs.h"

namespace flash_attn::cuda {

struct Sm90Choice {
  Sm90ForwardConfig config;
  bool packs = false;  // the query heads of a key head are stacked
  int splits = 1;
  int box_rows = 0;   // of a paged cache's boxes
  int part_rows = 0;  // of an item's partial result, where the kernel merges them itself
  Sm90Maps maps;
  Obstacle obstacle_q = Obstacle::none;
  Obstacle obstacle_k = Obstacle::none;
};

// ok if the kernel serves the problem on the device, else the reason.
Status choose_sm90(const Problem& problem, const DeviceInfo& device, Sm90Choice* choice);

// Everything but pointers.
ForwardParams shape_sm90_params(const Problem& problem, const DeviceInfo& device, const Sm90Choice& choice);
Sm90Extras sm90_extras(const Sm90Choice& choice);

}  // namespace flash_attn::cuda
