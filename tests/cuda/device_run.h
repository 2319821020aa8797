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

// Scratch of exactly the bytes that a plan asks for. The kernels of this room that the tests run need no state, or have it zeroed
// here.
class DeviceWorkspace {
 public:
  DeviceWorkspace(const fa_plan* plan, DeviceProblem* device, const DeviceStream& stream);
  ~DeviceWorkspace();
  DeviceWorkspace(const DeviceWorkspace&) = delete;
  DeviceWorkspace& operator=(const DeviceWorkspace&) = delete;
  const fa_workspace* get() const { return &workspace_; }

 private:
  fa_workspace workspace_;
};

}  // namespace flash_attn::test
