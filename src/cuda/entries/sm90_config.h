// The choices of the Hopper forward kernel, as functions of the problem and the device alone: what it serves, its configuration,
// and how tensors lie in its maps.
#pragma once

#include "core/problem.h"
#include "core/status.h"
#include "cuda/device.h"
#include "cuda/kernels/sm90_configs.h"
#include "cuda/tensormap.h"

namespace flash_attn::cuda {

// ok if the kernel serves the problem on the device, else the reason.
Status supports_sm90(const Problem& problem, const DeviceInfo& device);

Sm90ForwardConfig configure_sm90(const Problem& problem);

struct Sm90Maps {
  MapShape q, k, v, o;
};
Sm90Maps map_shapes(const Problem& problem, const Sm90ForwardConfig& config);

// Everything but pointers.
Sm90ForwardParams shape_sm90_params(const Problem& problem, const DeviceInfo& device, const Sm90ForwardConfig& config);

}  // namespace flash_attn::cuda
