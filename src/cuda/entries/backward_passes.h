// What every backward run does around its main kernels: row statistics before them, conversion and sums after them, zeros for dead
// rows, and the workspace through which they speak. Shared by the backward entries; knows nothing of main kernels.
#pragma once

#include "core/backend.h"
#include "core/problem.h"
#include "cuda/device.h"
#include "cuda/entries/planned_kernel.h"
#include "cuda/jit/kernel_request.h"
#include "cuda/kernels/backward_configs.h"
#include "cuda/kernels/backward_params.h"

#include <cstdint>
#include <string>
#include <vector>

namespace flash_attn::cuda {

// What a main kernel wants of the workspace.
struct BackwardShape {
  int stat_tile = 64;        // rows: a multiple of 16 and of the main kernels' query tiles
  int sums_d = 0;            // columns of fp32 sums of dq, a multiple of 8; 0: the main kernel writes dq itself
  bool copies_dout = false;  // dout is wanted in q's dtype (where o has another)
};

// ok if extents fit the backward kernels' 32-bit counts; beyond check_room_features.
Status check_backward_features(const Problem& problem);

// Everything of a run's parameters but pointers and the main kernel's cutting into items.
BackwardParams shape_backward_params(const Problem& problem, const BackwardShape& shape);

// Bytes that rows of q, k, v and, if it is read, dout are multiples of.
int backward_access(const Problem& problem, bool copies_dout);

size_t backward_scratch_bytes(const Problem& problem, const BackwardShape& shape);

class BackwardPasses {
 public:
  BackwardPasses(const Problem& problem, const DeviceInfo& device, const BackwardShape& shape);

  const BackwardParams& params() const { return params_; }
  size_t scratch_bytes() const { return scratch_bytes_; }
  std::string text() const;

  // The plan's parameters with a run's pointers.
  BackwardParams bind(const fa_attention_args& args, void* scratch) const;

  Status prepare(void* context) const;
  Status run_before(void* stream, uint32_t run_flags, const BackwardParams& params) const;
  Status run_after(void* stream, uint32_t run_flags, const BackwardParams& params) const;

  // Blocks of a launch over so much work.
  unsigned blocks(int64_t work) const;

 private:
  const Problem& problem_;
  BackwardShape shape_;
  BackwardParams params_;
  BackwardPreConfig pre_config_;
  BackwardPostConfig post_config_;
  BackwardDeadConfig dead_config_;
  BackwardHeadsConfig heads_config_;
  PlannedKernelOf<BackwardPreConfig> pre_;
  PlannedKernelOf<BackwardPostConfig> post_;
  PlannedKernelOf<BackwardDeadConfig> dead_;
  PlannedKernelOf<BackwardHeadsConfig> heads_;
  size_t scratch_bytes_;
};

// The texts that passes of this shape compile.
void list_backward_passes(const Problem& problem, const DeviceInfo& device, const BackwardShape& shape,
                          std::vector<KernelRequest>* requests);

}  // namespace flash_attn::cuda
