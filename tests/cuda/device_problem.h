// A TestProblem on a GPU: its buffers in device memory, its pointers moved there, and its outputs brought back. Knows nothing of
// kernels.
#pragma once

#include "tests/cuda/device_memory.h"
#include "tests/support/problem_builder.h"

#include <string>

namespace flash_attn::test {

class DeviceProblem : public DeviceMemory {
 public:
  DeviceProblem(const TestProblem& problem, Placement placement, const std::string& kernel = "");

  const fa_attention_desc& desc() const { return desc_; }
  fa_attention_desc& mutable_desc() { return desc_; }
  const fa_attention_args& args() const { return args_; }
  fa_attention_args& mutable_args() { return args_; }

 private:
  void move_lists(size_t at, size_t requests);
  void move_all();
  void promise();

  fa_attention_desc desc_;
  fa_attention_args args_;
};

}  // namespace flash_attn::test
