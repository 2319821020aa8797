// What fa_plan* points to, and the way through a plan's life: create, size, prepare, run. Between api (which unpacks the caller's
// structs) and a room (which owns the choice of kernel).
#pragma once

#include "core/backend.h"

#include <memory>
#include <string>

struct fa_plan {
  flash_attn::Problem problem;
  std::unique_ptr<flash_attn::Plan> choice;  // of the room; refers to the problem
};

namespace flash_attn {

Status create_plan(const fa_attention_desc& desc, std::unique_ptr<fa_plan>* plan, bool may_use_workspace = true);

Status prepare_plan(const fa_plan& plan, void* context);

// Zeroes the state memory.
Status init_plan_state(const fa_plan& plan, void* state, size_t state_bytes, void* stream);

// Checks pointers, workspace, stream and flags, then runs.
Status run_plan(const fa_plan& plan, const fa_attention_args& args, const fa_workspace& workspace, void* stream,
                uint32_t run_flags);

Status bound_workspace(const fa_attention_desc& maxima, WorkspaceSize* size);

// Text for a person: the problem, the choice or why there is none. Fails only on an invalid description.
Status explain(const fa_attention_desc& desc, std::string* text);

// The room for a device type, or the reason there is none.
Status require_backend(fa_device_type device_type, const Backend** backend);

}  // namespace flash_attn
