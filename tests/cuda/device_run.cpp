// See device_run.h.
#include "tests/cuda/device_run.h"

#include <cstdio>
#include <cstdlib>

namespace flash_attn::test {

DeviceWorkspace::DeviceWorkspace(const fa_plan* plan, DeviceProblem* device, const DeviceStream& stream) : workspace_() {
  size_t scratch_bytes = 0, state_bytes = 0;
  fa_plan_workspace(plan, &scratch_bytes, &state_bytes);
  fa_workspace_init(&workspace_);
  workspace_.scratch = device->scratch(scratch_bytes);
  workspace_.scratch_bytes = scratch_bytes;
  workspace_.state_bytes = state_bytes;
  if (state_bytes == 0) return;
  workspace_.state = device->state(state_bytes);
  if (fa_state_init(plan, workspace_.state, state_bytes, stream.get()) == FA_STATUS_OK) return;
  std::fprintf(stderr, "cannot initialise the state of a plan: %s\n", fa_last_error());
  std::exit(1);
}

DeviceRun run_on_device(TestProblem* problem, DeviceProblem* device, const DeviceStream& stream,
                        const std::vector<oracle::RowId>& rows) {
  DeviceRun run;
  const PlanHandle plan(device->desc(), {});
  run.status = plan.status();
  if (run.status == FA_STATUS_UNSUPPORTED) count_on_device(problem->spec(), problem->dtype(), device->desc(), false);
  if (run.status == FA_STATUS_OK) run.status = fa_prepare(plan.get(), nullptr);
  if (run.status == FA_STATUS_OK) {
    const DeviceWorkspace workspace(plan.get(), device, stream);
    device->upload();
    run.status = fa_run(plan.get(), &device->args(), workspace.get(), stream.get(), FA_RUN_NO_COMPILE);
    stream.synchronize();
  }
  if (run.status != FA_STATUS_OK) {
    run.message = fa_last_error();
    return run;
  }
  count_on_device(problem->spec(), problem->dtype(), device->desc(), true);
  run.fault = device->download();
  run.outputs = problem->read_outputs(rows);
  if (run.fault.empty()) run.fault = problem->find_damage();
  problem->reset_outputs();
  return run;
}

}  // namespace flash_attn::test
