// flash_attn.hpp: the C++17 interface of flash-attn-lib, header-only over flash_attn.h. It adds ownership (Plan, HostWorkspace), defaults
// (Desc, Args) and exceptions thrown on the caller's side of the ABI; it holds no logic of its own. What a field means is said in
// flash_attn.h.
#ifndef FLASH_ATTN_FLASH_ATTN_HPP
#define FLASH_ATTN_FLASH_ATTN_HPP

#include "flash_attn/flash_attn.h"

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace flash_attn {
// The inline namespace keeps these names apart from the library's own when it is linked statically.
inline namespace v0 {

// A failed call: its status, and fa_last_error() as what().
class Error : public std::runtime_error {
 public:
  Error(fa_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  fa_status status() const noexcept { return status_; }

 private:
  fa_status status_;
};

// Throws Error unless the status is FA_STATUS_OK.
inline void check(fa_status status) {
  if (status == FA_STATUS_OK) return;
  const std::string message = fa_last_error();
  throw Error(status, message.empty() ? fa_status_name(status) : message);
}

// A tensor of 1 to 4 dimensions with free strides (in elements).
inline fa_tensor_desc tensor(fa_dtype dtype, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> strides) {
  if (shape.size() == 0 || shape.size() > FA_MAX_RANK || strides.size() != shape.size()) {
    throw Error(FA_STATUS_INVALID_ARGUMENT, "a tensor has 1 to 4 dimensions and a stride for each");
  }
  fa_tensor_desc result = {};
  result.dtype = dtype;
  result.rank = static_cast<int32_t>(shape.size());
  int axis = 0;
  for (const int64_t extent : shape) result.shape[axis++] = extent;
  axis = 0;
  for (const int64_t stride : strides) result.stride[axis++] = stride;
  return result;
}

// A tensor without gaps, the last dimension innermost.
inline fa_tensor_desc tensor(fa_dtype dtype, std::initializer_list<int64_t> shape) {
  if (shape.size() == 0 || shape.size() > FA_MAX_RANK) {
    throw Error(FA_STATUS_INVALID_ARGUMENT, "a tensor has 1 to 4 dimensions");
  }
  fa_tensor_desc result = {};
  result.dtype = dtype;
  result.rank = static_cast<int32_t>(shape.size());
  int axis = 0;
  for (const int64_t extent : shape) result.shape[axis++] = extent;
  int64_t stride = 1;
  while (axis > 0) {
    --axis;
    result.stride[axis] = stride;
    stride *= result.shape[axis];
  }
  return result;
}

// A description with its defaults filled in.
struct Desc : fa_attention_desc {
  Desc() : fa_attention_desc() { check(fa_attention_desc_init(this)); }
};

// The pointers of a run, all null.
struct Args : fa_attention_args {
  Args() : fa_attention_args() { check(fa_attention_args_init(this)); }
};

// A plan and its lifetime. run() may be called from several threads at once.
class Plan {
 public:
  explicit Plan(const fa_attention_desc& desc) {
    fa_plan* plan = nullptr;
    check(fa_plan_create(&desc, &plan));
    plan_.reset(plan);
  }

  const char* kernel() const { return fa_plan_kernel(plan_.get()); }

  size_t scratch_bytes() const { return sizes().scratch; }
  size_t state_bytes() const { return sizes().state; }

  void init_state(void* state, size_t bytes, void* stream = nullptr) const {
    check(fa_state_init(plan_.get(), state, bytes, stream));
  }

  void prepare(void* context = nullptr) const { check(fa_prepare(plan_.get(), context)); }

  void run(const fa_attention_args& args, const fa_workspace* workspace = nullptr, void* stream = nullptr, uint32_t flags = 0) const {
    check(fa_run(plan_.get(), &args, workspace, stream, flags));
  }

  const fa_plan* get() const noexcept { return plan_.get(); }

 private:
  struct Sizes {
    size_t scratch = 0;
    size_t state = 0;
  };
  struct Destroy {
    void operator()(fa_plan* plan) const noexcept { fa_plan_destroy(plan); }
  };

  Sizes sizes() const {
    Sizes sizes;
    check(fa_plan_workspace(plan_.get(), &sizes.scratch, &sizes.state));
    return sizes;
  }

  std::unique_ptr<fa_plan, Destroy> plan_;
};

// Workspace in host memory for one run at a time of a plan.
class HostWorkspace {
 public:
  explicit HostWorkspace(const Plan& plan) : scratch_(allocate(plan.scratch_bytes())), state_(allocate(plan.state_bytes())) {
    check(fa_workspace_init(&workspace_));
    workspace_.scratch = scratch_.get();
    workspace_.scratch_bytes = plan.scratch_bytes();
    workspace_.state = state_.get();
    workspace_.state_bytes = plan.state_bytes();
    if (workspace_.state_bytes != 0) plan.init_state(workspace_.state, workspace_.state_bytes);
  }

  const fa_workspace* get() const noexcept { return &workspace_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(void* memory) const noexcept { ::operator delete(memory, kAlignment); }
  };
  using Memory = std::unique_ptr<void, Free>;

  static Memory allocate(size_t bytes) { return Memory(bytes == 0 ? nullptr : ::operator new(bytes, kAlignment)); }

  Memory scratch_;
  Memory state_;
  fa_workspace workspace_ = {};
};

// Plan and run in one call.
inline void attention(const fa_attention_desc& desc, const fa_attention_args& args, void* stream = nullptr) {
  check(fa_attention(&desc, &args, stream));
}

// What the planner makes of a description, also of one that is not served.
inline std::string explain(const fa_attention_desc& desc) {
  size_t length = 0;
  check(fa_explain(&desc, nullptr, 0, &length));
  std::string text(length + 1, '\0');
  check(fa_explain(&desc, &text[0], text.size(), &length));
  text.resize(length);
  return text;
}

// Instruction sets of this CPU, best first.
inline std::vector<std::string> cpu_isas() {
  std::vector<std::string> names;
  for (int32_t index = 0; const char* name = fa_cpu_isa_name(index); ++index) names.emplace_back(name);
  return names;
}

}  // namespace v0
}  // namespace flash_attn

#endif  // FLASH_ATTN_FLASH_ATTN_HPP
