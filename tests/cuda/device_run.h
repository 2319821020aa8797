// One run of a problem on the GPU: plan, prepare, launch, read back, and a look at everything that must not have changed.
#pragma once

#include "tests/cuda/device_problem.h"
#include "tests/support/runner.h"

#include <string>
#include <vector>

namespace flash_attn::test {

struct DeviceRun {
  fa_status status = FA_STATUS_OK;
  std::string message;  // fa_last_error of a failure
  Outputs outputs;
  std::string fault;  // damaged memory; empty if none
};

// Leaves the sentinel in the problem's outputs.
DeviceRun run_on_device(TestProblem* problem, DeviceProblem* device, const DeviceStream& stream,
                        const std::vector<oracle::RowId>& rows);

// Scratch and state of exactly the bytes that a plan asks for, in the problem's keeping; the state is initialised on the stream.
class DeviceWorkspace {
 public:
  DeviceWorkspace(const fa_plan* plan, DeviceProblem* device, const DeviceStream& stream);
  const fa_workspace* get() const { return &workspace_; }

 private:
  fa_workspace workspace_;
};

}  // namespace flash_attn::test
