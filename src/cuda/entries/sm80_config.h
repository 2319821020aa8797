// The choices of the mma.sync forward kernel: its config, key splits and item counts, as functions of the problem and the device
// alone.
#pragma once

#include "core/backend.h"
#include "core/problem.h"
#include "cuda/device.h"
#include "cuda/entries/forward_choices.h"
#include "cuda/kernels/configs.h"

#include <cstdint>

namespace flash_attn::cuda {

Status configure_sm80(const Problem& problem, const DeviceInfo& device, Sm80ForwardConfig* config, int* splits);

// Query tiles of the longest request's rows, stacked over the heads that share a tile.
int64_t tiles_of(const Problem& problem, int tile_q);
int64_t count_items(const Problem& problem, int tile_q, int splits);

WorkspaceSize bound_sm80_workspace(const Problem& maxima, const DeviceInfo& device);

}  // namespace flash_attn::cuda
