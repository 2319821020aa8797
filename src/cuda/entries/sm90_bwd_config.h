// The choices of the Hopper backward kernel, as functions of the problem and the device alone: what it serves, its configuration,
// how tensors lie in its maps, and how its work is cut.
#pragma once

#include "core/problem.h"
#include "core/status.h"
#include "cuda/device.h"
#include "cuda/entries/backward_passes.h"
#include "cuda/kernels/sm90_bwd_configs.h"
#include "cuda/tensormap.h"

namespace flash_attn::cuda {

// ok if the kernel serves the problem on the device, else the reason.
Status supports_sm90_backward(const Problem& problem, const DeviceInfo& device);

Sm90BackwardConfig configure_sm90_backward(const Problem& problem);

// What the kernel wants of the passes before and after it.
BackwardShape sm90_backward_shape(const Sm90BackwardConfig& config);

struct Sm90BackwardMaps {
  MapShape q, k, v, dout, dk, dv;
};
Sm90BackwardMaps map_backward_shapes(const Problem& problem, const Sm90BackwardConfig& config);

// Everything but maps, pointers and the passes' parameters.
Sm90BackwardArguments shape_sm90_backward(const Problem& problem, const DeviceInfo& device, const Sm90BackwardConfig& config);

// Of the counters by which blocks wait for their turn; 0 if they do not.
size_t sm90_turn_bytes(const Problem& problem, const BackwardParams& params, const Sm90BackwardConfig& config);

}  // namespace flash_attn::cuda
