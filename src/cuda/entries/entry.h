// A kernel's host half as the CUDA room's list of kernels sees it.
#pragma once

#include "core/backend.h"
#include "core/problem.h"
#include "core/status.h"
#include "cuda/device.h"
#include "cuda/jit/kernel_request.h"

#include <vector>

namespace flash_attn::cuda {

struct KernelEntry {
  const char* name;  // as forced and explained
  // ok if it serves the problem on the device, else the reason.
  Status (*supports)(const Problem& problem, const DeviceInfo& device);
  // Allocates *plan, or gives the reason that supports() gives; host-only. The problem must outlive the plan.
  Status (*plan)(const Problem& problem, const DeviceInfo& device, Plan** plan);
  // Enough for every problem whose extents do not exceed this one's.
  WorkspaceSize (*workspace_bound)(const Problem& maxima, const DeviceInfo& device);
  // The texts that a plan of it would compile, for archives and checks without a GPU; nullable.
  Status (*kernels)(const Problem& problem, const DeviceInfo& device, std::vector<KernelRequest>* requests) = nullptr;
  Direction direction = Direction::forward;  // that it serves
  // What it was never made for, told without a word where many kernels are asked: other compute capabilities than this (0: none),
  // and fp32.
  int only_capability = 0;
  bool takes_f32 = true;
};

extern const KernelEntry kSm90ForwardEntry;
extern const KernelEntry kSm80ForwardEntry;
extern const KernelEntry kSm80BackwardEntry;
extern const KernelEntry kSm90BackwardEntry;

// What no kernel of this room serves, in words: at all, and of forward problems.
Status check_room_features(const Problem& problem);
Status check_forward_features(const Problem& problem);

}  // namespace flash_attn::cuda
