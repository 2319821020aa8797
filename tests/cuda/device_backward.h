// A BackwardProblem on a GPU: its buffers in device memory, its pointers moved there, and its gradients brought back. Knows nothing
// of kernels.
#pragma once

#include "tests/cuda/device_memory.h"
#include "tests/support/backward_check.h"

#include <string>

namespace flash_attn::test {

class DeviceBackward : public DeviceMemory {
 public:
  DeviceBackward(const BackwardProblem& problem, Placement placement, const std::string& kernel);

  const fa_attention_desc& desc() const { return desc_; }
  fa_attention_desc& mutable_desc() { return desc_; }
  const fa_attention_args& args() const { return args_; }

 private:
  void move_all();
  void promise();

  fa_attention_desc desc_;
  fa_attention_args args_;
};

// Plan, prepare, run and read back. Leaves the outputs' initial contents in the problem.
BackwardRun run_backward_on_device(BackwardProblem* problem, DeviceBackward* device, const DeviceStream& stream);

}  // namespace flash_attn::test
