// See runner.h.
#include "tests/support/runner.h"

#include "tests/support/coverage.h"
#include "tests/support/crash_note.h"

#include <cstring>

namespace flash_attn::test {

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (int32_t index = 0; fa_cpu_isa_name(index) != nullptr; ++index) names.emplace_back(fa_cpu_isa_name(index));
  return names;
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (int32_t index = 0; fa_kernel_name(FA_DEVICE_CPU, index) != nullptr; ++index) {
    const std::string name = fa_kernel_name(FA_DEVICE_CPU, index);
    if (name != kBackwardKernel) names.push_back(name);
  }
  return names;
}

std::vector<Choice> all_choices() {
  std::vector<Choice> choices;
  for (const std::string& isa : isa_names()) {
    for (const std::string& kernel : kernel_names()) choices.push_back({kernel, isa});
  }
  return choices;
}

std::vector<Choice> isa_choices() {
  std::vector<Choice> choices;
  for (const std::string& isa : isa_names()) choices.push_back({"", isa});
  return choices;
}

bool is_planned_name(const Choice& choice, const std::string& name) {
  const size_t first = name.find('/'), last = name.rfind('/');
  if (first == std::string::npos || first == last || name.substr(0, first) != "cpu") return false;
  const std::string kernel = name.substr(first + 1, last - first - 1), isa = name.substr(last + 1);
  if (!choice.isa.empty() && isa != choice.isa) return false;
  return choice.kernel.empty() || choice.kernel == "mixed" || kernel == choice.kernel;
}

std::string RunResult::text() const {
  if (status != FA_STATUS_OK) return std::string(fa_status_name(status)) + ": " + message;
  return fault.empty() ? kernel + ": ok" : kernel + ": " + fault;
}

PlanHandle::PlanHandle(const fa_attention_desc& desc, const Choice& choice) {
  fa_attention_desc forced = desc;
  if (!choice.kernel.empty()) forced.kernel = choice.kernel.c_str();
  if (!choice.isa.empty()) forced.isa = choice.isa.c_str();
  status_ = fa_plan_create(&forced, &plan_);
}

PlannedWorkspace::PlannedWorkspace(const fa_plan* plan) : workspace_() {
  size_t scratch_bytes = 0, state_bytes = 0;
  fa_plan_workspace(plan, &scratch_bytes, &state_bytes);
  if (scratch_bytes > 0) scratch_ = GuardedBuffer(scratch_bytes, 64, GuardedBuffer::Edge::end);
  if (state_bytes > 0) state_ = GuardedBuffer(state_bytes, 64, GuardedBuffer::Edge::end);
  if (scratch_bytes > 0) std::memset(scratch_.data(), 0xFF, scratch_bytes);
  if (state_bytes > 0) std::memset(state_.data(), 0xFF, state_bytes);
  fa_workspace_init(&workspace_);
  workspace_.scratch = scratch_.data();
  workspace_.scratch_bytes = scratch_bytes;
  workspace_.state = state_.data();
  workspace_.state_bytes = state_bytes;
  if (state_bytes > 0) fa_state_init(plan, workspace_.state, state_bytes, nullptr);
}

std::string PlannedWorkspace::find_damage() const {
  if (!scratch_.is_slack_intact()) return "memory beside the scratch was written";
  if (!state_.is_slack_intact()) return "memory beside the state was written";
  for (size_t n = 0; n < state_.bytes(); ++n) {
    if (state_.as<unsigned char>()[n] != 0) return "state is not zero after the run";
  }
  return "";
}

RunResult run_problem(TestProblem* problem, const Choice& choice, const std::vector<oracle::RowId>& rows) {
  RunResult result;
  const CrashNote note(problem->text() + " on " + choice.text());
  const PlanHandle plan(problem->desc(), choice);
  result.status = plan.status();
  if (result.status != FA_STATUS_OK) {
    result.message = fa_last_error();
    if (result.status == FA_STATUS_UNSUPPORTED) count_refusal(problem->spec(), problem->dtype(), choice.kernel, choice.isa);
    return result;
  }
  result.kernel = fa_plan_kernel(plan.get());
  PlannedWorkspace workspace(plan.get());
  result.status = fa_prepare(plan.get(), nullptr);
  if (result.status == FA_STATUS_OK) result.status = fa_run(plan.get(), &problem->args(), workspace.get(), nullptr, 0);
  if (result.status != FA_STATUS_OK) {
    result.message = fa_last_error();
    return result;
  }
  count_run(problem->spec(), problem->dtype(), choice.kernel, choice.isa);
  if (!is_planned_name(choice, result.kernel)) {
    result.fault = "planned " + result.kernel + " though " + choice.text() + " was forced";
  }
  result.outputs = problem->read_outputs(rows);
  if (result.fault.empty()) result.fault = workspace.find_damage();
  if (result.fault.empty()) result.fault = problem->find_damage();
  problem->reset_outputs();
  if (!result.fault.empty()) result.fault += "\n  in " + problem->text();
  return result;
}

}  // namespace flash_attn::test
