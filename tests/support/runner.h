// Runs a TestProblem through the C ABI: with a kernel and instruction set forced by name, with a workspace of exactly the planned
// size between guard pages, and with a look at everything that must not have changed.
#pragma once

#include "tests/support/problem_builder.h"

#include <string>
#include <vector>

namespace flash_attn::test {

// Empty names leave the choice to the planner.
struct Choice {
  std::string kernel, isa;
  std::string text() const { return (kernel.empty() ? "any kernel" : kernel) + "/" + (isa.empty() ? "best isa" : isa); }
};

// The kernel of the CPU room that serves backwards; the others serve forwards.
inline constexpr const char* kBackwardKernel = "backward";

// Instruction sets of this machine, forward kernels of the CPU room, and every pair of them.
std::vector<std::string> isa_names();
std::vector<std::string> kernel_names();
std::vector<Choice> all_choices();
// One choice per instruction set, kernel free.
std::vector<Choice> isa_choices();

struct RunResult {
  fa_status status = FA_STATUS_OK;
  std::string message;  // fa_last_error of a failure
  std::string kernel;   // full name of what ran
  Outputs outputs;
  std::string fault;  // a wrong kernel, damaged memory; empty if none

  bool ok() const { return status == FA_STATUS_OK && fault.empty(); }
  std::string text() const;
};

// Plan, prepare, run, read the rows. Leaves the outputs holding the sentinel. Counts towards the coverage table.
RunResult run_problem(TestProblem* problem, const Choice& choice, const std::vector<oracle::RowId>& rows);

// Is `name`, a full name such as "cpu/panel/avx2", what the choice must plan to? A forced "mixed" may show the one kernel that all
// its requests take.
bool is_planned_name(const Choice& choice, const std::string& name);

// A plan that cleans up after itself.
class PlanHandle {
 public:
  PlanHandle(const fa_attention_desc& desc, const Choice& choice);
  ~PlanHandle() { fa_plan_destroy(plan_); }
  PlanHandle(const PlanHandle&) = delete;
  PlanHandle& operator=(const PlanHandle&) = delete;

  fa_status status() const { return status_; }
  fa_plan* get() const { return plan_; }

 private:
  fa_plan* plan_ = nullptr;
  fa_status status_ = FA_STATUS_OK;
};

// Scratch full of 0xFF and zeroed state, each of exactly the bytes that a plan asks for.
class PlannedWorkspace {
 public:
  explicit PlannedWorkspace(const fa_plan* plan);
  const fa_workspace* get() const { return &workspace_; }
  fa_workspace& mutable_workspace() { return workspace_; }
  // A write outside, or state left other than zero; empty if none.
  std::string find_damage() const;

 private:
  GuardedBuffer scratch_, state_;
  fa_workspace workspace_;
};

}  // namespace flash_attn::test
