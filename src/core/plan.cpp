// The life of a plan, the same for every room: description to Problem to the room's choice, then runs of it with checked pointers.
#include "core/plan.h"

#include <utility>
#include <vector>

namespace flash_attn {
namespace {

constexpr uint32_t kKnownRunFlags = FA_RUN_NO_COMPILE;
constexpr uintptr_t kWorkspaceAlignment = 64;

Status check_memory(const char* name, const void* memory, size_t bytes, size_t needed) {
  if (needed == 0) return Status();
  if (bytes < needed) {
    return invalid("workspace.%s_bytes is %zu but must be %zu or more, as fa_plan_workspace says", name, bytes, needed);
  }
  if (memory == nullptr) return invalid("workspace.%s is NULL but the plan needs %zu bytes", name, needed);
  if (reinterpret_cast<uintptr_t>(memory) % kWorkspaceAlignment != 0) {
    return invalid("workspace.%s is %p but must be a multiple of 64 bytes", name, memory);
  }
  return Status();
}

Status check_workspace(const fa_workspace& workspace, const WorkspaceSize& size) {
  if (workspace.reserved != 0) return invalid("workspace.reserved is %u but must be 0", workspace.reserved);
  FA_TRY(check_memory("scratch", workspace.scratch, workspace.scratch_bytes, size.scratch_bytes));
  return check_memory("state", workspace.state, workspace.state_bytes, size.state_bytes);
}

// A stream or context means something on a GPU only.
Status check_handle(const char* name, const fa_plan& plan, const void* handle) {
  if (plan.problem.device_type != FA_DEVICE_CPU || handle == nullptr) return Status();
  return invalid("%s is %p but must be NULL for a CPU plan", name, handle);
}

std::string text_of(const Plan& choice) {
  const WorkspaceSize size = choice.workspace();
  return format_text("kernel: %s\nworkspace: %zu bytes scratch, %zu bytes state\n", choice.kernel(), size.scratch_bytes,
                     size.state_bytes) +
         choice.text();
}

}  // namespace

Status require_backend(fa_device_type device_type, const Backend** backend) {
  if (device_type != FA_DEVICE_CPU && device_type != FA_DEVICE_CUDA) {
    return invalid("device_type is %d but must be FA_DEVICE_CPU (0) or FA_DEVICE_CUDA (1)", device_type);
  }
  *backend = find_backend(device_type);
  if (*backend != nullptr) return Status();
  return unsupported("device_type is %s but this build has no %s room",
                     device_type == FA_DEVICE_CUDA ? "FA_DEVICE_CUDA" : "FA_DEVICE_CPU",
                     device_type == FA_DEVICE_CUDA ? "CUDA" : "CPU");
}

Status create_plan(const fa_attention_desc& desc, std::unique_ptr<fa_plan>* plan, bool may_use_workspace) {
  auto created = std::make_unique<fa_plan>();
  FA_TRY(make_problem(desc, &created->problem));
  created->problem.may_use_workspace = may_use_workspace;
  const Backend* backend = nullptr;
  FA_TRY(require_backend(created->problem.device_type, &backend));
  Plan* choice = nullptr;
  FA_TRY(backend->plan(created->problem, &choice, nullptr));
  created->choice.reset(choice);
  *plan = std::move(created);
  return Status();
}

Status prepare_plan(const fa_plan& plan, void* context) {
  FA_TRY(check_handle("context", plan, context));
  return plan.choice->prepare(context);
}

Status init_plan_state(const fa_plan& plan, void* state, size_t state_bytes, void* stream) {
  FA_TRY(check_handle("stream", plan, stream));
  FA_TRY(check_memory("state", state, state_bytes, plan.choice->workspace().state_bytes));
  return plan.choice->init_state(state, state_bytes, stream);
}

Status run_plan(const fa_plan& plan, const fa_attention_args& args, const fa_workspace& workspace, void* stream,
                uint32_t run_flags) {
  if ((run_flags & ~kKnownRunFlags) != 0) {
    return invalid("run_flags is 0x%x with unknown bits 0x%x; known are FA_RUN_*, 0x%x", run_flags, run_flags & ~kKnownRunFlags,
                   kKnownRunFlags);
  }
  FA_TRY(check_handle("stream", plan, stream));
  const WorkspaceSize size = plan.choice->workspace();
  FA_TRY(check_workspace(workspace, size));
  FA_TRY(check_args(plan.problem, args, {workspace.scratch, size.scratch_bytes, workspace.state, size.state_bytes}));
  return plan.choice->run(args, workspace, stream, run_flags);
}

Status bound_workspace(const fa_attention_desc& maxima, WorkspaceSize* size) {
  Problem problem;
  FA_TRY(make_problem(maxima, &problem));
  const Backend* backend = nullptr;
  FA_TRY(require_backend(problem.device_type, &backend));
  return backend->workspace_bound(problem, size);
}

Status explain(const fa_attention_desc& desc, std::string* text) {
  Problem problem;
  FA_TRY(make_problem(desc, &problem));
  *text = describe(problem) + "\n";
  const Backend* backend = nullptr;
  if (const Status status = require_backend(problem.device_type, &backend); !status.ok()) {
    *text += "not served: " + status.message() + "\n";
    return Status();
  }
  Plan* raw = nullptr;
  std::vector<Refusal> refusals;
  Status status = backend->plan(problem, &raw, &refusals);
  const std::unique_ptr<Plan> choice(raw);
  const bool is_answer = status.ok() || status.code() == FA_STATUS_UNSUPPORTED || status.code() == FA_STATUS_INVALID_ARGUMENT;
  if (!is_answer) return status;
  *text += status.ok() ? text_of(*choice) : "not served: " + status.message() + "\n";
  if (text->back() != '\n') *text += '\n';
  std::string expectation;
  if (status.ok() && backend->expectation != nullptr) FA_TRY(backend->expectation(problem, &expectation));
  *text += expectation;
  for (const Refusal& refusal : refusals) *text += "passed over: " + refusal.kernel + ": " + refusal.reason + "\n";
  return Status();
}

}  // namespace flash_attn
