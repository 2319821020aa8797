// The program's view of the library: statuses become exceptions, a plan and its workspace become one object. Public C ABI only.
#pragma once

#include "array.h"
#include "flash_attn/flash_attn.h"
#include "gpu.h"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace flash_attn::tool {

// Throws Failure with the library's message unless `status` is FA_STATUS_OK.
void check_status(fa_status status);

fa_attention_desc new_desc();
fa_attention_args new_args();

// Rank at most FA_MAX_RANK; strides of a dense tensor in C order.
fa_tensor_desc dense_tensor(fa_dtype dtype, const std::vector<int64_t>& shape);

// "f32", "f16", "bf16" to fa_dtype; FA_DTYPE_NONE if unknown.
fa_dtype dtype_from_name(const std::string& name);
const char* dtype_to_name(fa_dtype dtype);
fa_dtype dtype_of(Element element);
Element element_of(fa_dtype dtype);

// The texts of the ABI, whatever their length.
std::string device_text(fa_device_type device_type, int device_index);
std::string explain_text(const fa_attention_desc& desc);

// Value of a "key: value" line of a device's text; empty if there is none.
std::string device_field(const std::string& text, const std::string& key);

std::vector<std::string> isa_names();

class Attention {
 public:
  // With a Gpu the workspace lies in its memory; it must outlive the runs.
  explicit Attention(const fa_attention_desc& desc, Gpu* gpu = nullptr);
  void run(const fa_attention_args& args) const;
  const char* kernel() const { return fa_plan_kernel(plan_.get()); }
  size_t workspace_bytes() const { return workspace_.scratch_bytes + workspace_.state_bytes; }

 private:
  struct PlanDeleter {
    void operator()(fa_plan* plan) const { fa_plan_destroy(plan); }
  };
  struct Freer {
    void operator()(void* memory) const;
  };
  std::unique_ptr<fa_plan, PlanDeleter> plan_;
  std::unique_ptr<void, Freer> scratch_, state_;
  fa_workspace workspace_{};
};

}  // namespace flash_attn::tool
