// A BackwardProblem on a GPU: its buffers in one block of device memory with poison between them, its pointers moved there, and its
// gradients brought back. Knows nothing of kernels.
#pragma once

#include "tests/cuda/device_problem.h"
#include "tests/support/backward_check.h"

#include <string>
#include <vector>

namespace flash_attn::test {

class DeviceBackward {
 public:
  DeviceBackward(const BackwardProblem& problem, Placement placement, const std::string& kernel);
  ~DeviceBackward();
  DeviceBackward(const DeviceBackward&) = delete;
  DeviceBackward& operator=(const DeviceBackward&) = delete;

  const fa_attention_desc& desc() const { return desc_; }
  fa_attention_desc& mutable_desc() { return desc_; }
  const fa_attention_args& args() const { return args_; }

  // Writes the initial contents, those of the gradients included, to the device again.
  void upload();
  // Copies the gradients' memory into the problem's own buffers, and looks whether any other memory changed; empty if not.
  std::string download();
  // What the memory behind a device pointer holds after upload().
  const void* original(const void* device_pointer) const;
  // Scratch of `bytes`, full of 0xFF, between guards.
  void* scratch(size_t bytes);

 private:
  struct Part {
    const GuardedBuffer* source;
    size_t at;
    bool is_output;
  };
  void place(const GuardedBuffer& buffer, size_t element, bool is_output);
  template <class T>
  void move(T*& pointer) const;
  void move_all();
  void promise();

  const cuda::Driver& driver_;
  Placement placement_;
  fa_attention_desc desc_;
  fa_attention_args args_;
  std::vector<Part> parts_;
  std::vector<unsigned char> image_;  // what the device memory holds before a run
  size_t end_ = 0;
  cuda::CUdeviceptr memory_ = 0, scratch_ = 0;
  size_t scratch_bytes_ = 0;
};

// Plan, prepare, run and read back. Leaves the outputs' initial contents in the problem.
BackwardRun run_backward_on_device(BackwardProblem* problem, DeviceBackward* device, const DeviceStream& stream);

}  // namespace flash_attn::test
