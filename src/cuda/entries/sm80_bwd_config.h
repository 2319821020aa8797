// The choices of the mma.sync backward: which kernels a run needs and their tiles, as functions of the problem and the device
// alone.
#pragma once

#include "core/problem.h"
#include "cuda/device.h"
#include "cuda/entries/backward_passes.h"
#include "cuda/kernels/sm80_bwd_configs.h"

#include <vector>

namespace flash_attn::cuda {

// The main kernels of a run, in the order of their launch, and what they want of the passes around them.
struct Sm80BackwardChoice {
  std::vector<Sm80BackwardConfig> kernels;
  BackwardShape shape;
};

Status configure_sm80_backward(const Problem& problem, const DeviceInfo& device, Sm80BackwardChoice* choice);

// How a kernel's work is cut into items: fills tiles_q, heads, section, items and the tiles of d_bias. stat_tile must be set.
void cut_backward(const Problem& problem, const DeviceInfo& device, const Sm80BackwardConfig& config, BackwardParams* params);

WorkspaceSize bound_sm80_backward_workspace(const Problem& maxima, const DeviceInfo& device);

}  // namespace flash_attn::cuda
