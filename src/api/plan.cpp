// Exported functions around descriptions and plans: unpack the caller's structs, call core, translate the status.
#include "api/guard.h"
#include "api/structs.h"
#include "api/text.h"
#include "core/plan.h"

using flash_attn::Status;
using flash_attn::WorkspaceSize;
using flash_attn::api::adopt;
using flash_attn::api::guarded;

namespace {

Status require_plan(const fa_plan* plan) { return plan != nullptr ? Status() : flash_attn::invalid("plan is NULL"); }

Status require_sizes(const size_t* scratch_bytes, const size_t* state_bytes) {
  if (scratch_bytes == nullptr) return flash_attn::invalid("scratch_bytes is NULL");
  if (state_bytes == nullptr) return flash_attn::invalid("state_bytes is NULL");
  return Status();
}

template <typename Struct>
fa_status init_struct(const char* name, Struct* target) {
  return guarded([&]() -> Status {
    if (target == nullptr) return flash_attn::invalid("%s is NULL", name);
    flash_attn::api::set_defaults(target);
    return Status();
  });
}

}  // namespace

fa_status fa_attention_desc_init(fa_attention_desc* desc) { return init_struct("desc", desc); }

fa_status fa_attention_args_init(fa_attention_args* args) { return init_struct("args", args); }

fa_status fa_workspace_init(fa_workspace* workspace) { return init_struct("workspace", workspace); }

fa_status fa_validate(const fa_attention_desc* desc) {
  return guarded([&]() -> Status {
    fa_attention_desc storage;
    const fa_attention_desc* usable = nullptr;
    FA_TRY(adopt(desc, &storage, &usable));
    flash_attn::Problem problem;
    return flash_attn::make_problem(*usable, &problem);
  });
}

fa_status fa_supports(const fa_attention_desc* desc) {
  return guarded([&]() -> Status {
    fa_attention_desc storage;
    const fa_attention_desc* usable = nullptr;
    FA_TRY(adopt(desc, &storage, &usable));
    std::unique_ptr<fa_plan> plan;
    return flash_attn::create_plan(*usable, &plan);
  });
}

fa_status fa_plan_create(const fa_attention_desc* desc, fa_plan** plan) {
  return guarded([&]() -> Status {
    if (plan == nullptr) return flash_attn::invalid("plan is NULL");
    *plan = nullptr;
    fa_attention_desc storage;
    const fa_attention_desc* usable = nullptr;
    FA_TRY(adopt(desc, &storage, &usable));
    std::unique_ptr<fa_plan> created;
    FA_TRY(flash_attn::create_plan(*usable, &created));
    *plan = created.release();
    return Status();
  });
}

void fa_plan_destroy(fa_plan* plan) { delete plan; }

fa_status fa_plan_workspace(const fa_plan* plan, size_t* scratch_bytes, size_t* state_bytes) {
  return guarded([&]() -> Status {
    FA_TRY(require_plan(plan));
    FA_TRY(require_sizes(scratch_bytes, state_bytes));
    const WorkspaceSize size = plan->choice->workspace();
    *scratch_bytes = size.scratch_bytes;
    *state_bytes = size.state_bytes;
    return Status();
  });
}

fa_status fa_workspace_bound(const fa_attention_desc* maxima, size_t* scratch_bytes, size_t* state_bytes) {
  return guarded([&]() -> Status {
    FA_TRY(require_sizes(scratch_bytes, state_bytes));
    fa_attention_desc storage;
    const fa_attention_desc* usable = nullptr;
    FA_TRY(adopt(maxima, &storage, &usable));
    WorkspaceSize size;
    FA_TRY(flash_attn::bound_workspace(*usable, &size));
    *scratch_bytes = size.scratch_bytes;
    *state_bytes = size.state_bytes;
    return Status();
  });
}

fa_status fa_state_init(const fa_plan* plan, void* state, size_t state_bytes, void* stream) {
  return guarded([&]() -> Status {
    FA_TRY(require_plan(plan));
    return flash_attn::init_plan_state(*plan, state, state_bytes, stream);
  });
}

fa_status fa_prepare(const fa_plan* plan, void* context) {
  return guarded([&]() -> Status {
    FA_TRY(require_plan(plan));
    return flash_attn::prepare_plan(*plan, context);
  });
}

fa_status fa_run(const fa_plan* plan, const fa_attention_args* args, const fa_workspace* workspace, void* stream,
                 uint32_t run_flags) {
  return guarded([&]() -> Status {
    FA_TRY(require_plan(plan));
    fa_attention_args args_storage;
    const fa_attention_args* usable_args = nullptr;
    FA_TRY(adopt(args, &args_storage, &usable_args));
    fa_workspace workspace_storage;
    const fa_workspace* usable_workspace = nullptr;
    FA_TRY(adopt(workspace, &workspace_storage, &usable_workspace));
    return flash_attn::run_plan(*plan, *usable_args, *usable_workspace, stream, run_flags);
  });
}

fa_status fa_explain(const fa_attention_desc* desc, char* buffer, size_t capacity, size_t* length) {
  return guarded([&]() -> Status {
    FA_TRY(flash_attn::api::check_buffer(buffer, capacity));
    fa_attention_desc storage;
    const fa_attention_desc* usable = nullptr;
    FA_TRY(adopt(desc, &storage, &usable));
    std::string text;
    FA_TRY(flash_attn::explain(*usable, &text));
    flash_attn::api::put_text(text, buffer, capacity, length);
    return Status();
  });
}

const char* fa_plan_kernel(const fa_plan* plan) { return plan != nullptr ? plan->choice->kernel() : nullptr; }
