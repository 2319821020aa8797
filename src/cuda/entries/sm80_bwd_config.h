// The choices of the mma.sync backward: which kernels a run needs and their tiles, as functions of the problem and the device
// alone.
#pragma once

#include "core/problem.h"
#include "cuda/device.h"
#include "cuda/entries/backward_passes.h"
#include "cuda/kernels/backward_params.h"
#include "cuda/kernels/sm80_bwd_configs.h"

namespace flash_attn::cuda {

// The main kernels of a run, in the order of their launch.
class Sm80BackwardKernels {
 public:
  static constexpr int kMost = 5;  // one of each role

  void add(const Sm80BackwardConfig& config) { configs_[count_++] = config; }
  Sm80BackwardConfig* begin() { return configs_; }
  Sm80BackwardConfig* end() { return configs_ + count_; }
  const Sm80BackwardConfig* begin() const { return configs_; }
  const Sm80BackwardConfig* end() const { return configs_ + count_; }

 private:
  Sm80BackwardConfig configs_[kMost];
  int count_ = 0;
};

// They, and what they want of the passes around them.
struct Sm80BackwardChoice {
  Sm80BackwardKernels kernels;
  BackwardShape shape;
};

// How a kernel's work is cut into items: fields of the same names in BackwardParams.
struct BackwardCut {
  int heads = 0, section = 0, items = 0;
  Divisor tiles_q;
  int bias_requests = 0, bias_heads = 0, bias_row_tiles = 0, bias_key_tiles = 0;

  void write(BackwardParams* params) const;
};

Status configure_sm80_backward(const Problem& problem, const DeviceInfo& device, Sm80BackwardChoice* choice);

BackwardCut cut_backward(const Problem& problem, const DeviceInfo& device, const Sm80BackwardConfig& config);

WorkspaceSize bound_sm80_backward_workspace(const Problem& maxima, const DeviceInfo& device);

}  // namespace flash_attn::cuda
