// Thin RAII over the C ABI: every call that can fail goes through check_status, every plan and workspace has one owner.
#include "engine.h"

#include "errors.h"

#include <cstdlib>
#include <new>
#include <sstream>

namespace flash_attn::tool {
namespace {

// Workspaces are 64-byte aligned; aligned_alloc wants a multiple of that.
void* allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (memory == nullptr) throw Failure("cannot allocate a workspace of " + std::to_string(bytes) + " bytes");
  return memory;
}

// Calls a function with the ABI's buffer rules: once for the length, once for the text.
template <typename Call>
std::string whole_text(const Call& call) {
  size_t length = 0;
  check_status(call(nullptr, 0, &length));
  std::string text(length + 1, '\0');
  check_status(call(text.data(), text.size(), &length));
  text.resize(length);
  return text;
}

}  // namespace

void check_status(fa_status status) {
  if (status == FA_STATUS_OK) return;
  const std::string message = fa_last_error();
  throw Failure(message.empty() ? fa_status_name(status) : message);
}

fa_attention_desc new_desc() {
  fa_attention_desc desc;
  check_status(fa_attention_desc_init(&desc));
  return desc;
}

fa_attention_args new_args() {
  fa_attention_args args;
  check_status(fa_attention_args_init(&args));
  return args;
}

fa_tensor_desc dense_tensor(fa_dtype dtype, const std::vector<int64_t>& shape) {
  fa_tensor_desc tensor{};
  tensor.dtype = dtype;
  tensor.rank = static_cast<int32_t>(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    tensor.shape[i] = shape[i];
    tensor.stride[i] = stride;
    stride *= shape[i] > 0 ? shape[i] : 1;
  }
  return tensor;
}

fa_dtype dtype_from_name(const std::string& name) {
  if (name == "f32") return FA_DTYPE_F32;
  if (name == "f16") return FA_DTYPE_F16;
  if (name == "bf16") return FA_DTYPE_BF16;
  return FA_DTYPE_NONE;
}

const char* dtype_to_name(fa_dtype dtype) { return dtype == FA_DTYPE_F32 ? "f32" : (dtype == FA_DTYPE_F16 ? "f16" : "bf16"); }

fa_dtype dtype_of(Element element) {
  switch (element) {
    case Element::f32:
      return FA_DTYPE_F32;
    case Element::f16:
      return FA_DTYPE_F16;
    case Element::bf16:
      return FA_DTYPE_BF16;
    case Element::i32:
      return FA_DTYPE_I32;
    case Element::u64:
      return FA_DTYPE_U64;
    case Element::u8:
    case Element::boolean:
      return FA_DTYPE_BOOL;
    case Element::i64:
      break;
  }
  return FA_DTYPE_NONE;
}

Element element_of(fa_dtype dtype) {
  return dtype == FA_DTYPE_F32 ? Element::f32 : (dtype == FA_DTYPE_F16 ? Element::f16 : Element::bf16);
}

std::string device_text(fa_device_type device_type, int device_index) {
  return whole_text([&](char* buffer, size_t capacity, size_t* length) {
    return fa_device_text(device_type, device_index, buffer, capacity, length);
  });
}

std::string explain_text(const fa_attention_desc& desc) {
  return whole_text([&](char* buffer, size_t capacity, size_t* length) { return fa_explain(&desc, buffer, capacity, length); });
}

std::string device_field(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(key + ": ")) return line.substr(key.size() + 2);
  }
  return {};
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (int32_t i = 0; const char* name = fa_cpu_isa_name(i); ++i) names.emplace_back(name);
  return names;
}

void Attention::Freer::operator()(void* memory) const { std::free(memory); }

Attention::Attention(const fa_attention_desc& desc, Gpu* gpu) {
  fa_plan* plan = nullptr;
  check_status(fa_plan_create(&desc, &plan));
  plan_.reset(plan);
  check_status(fa_prepare(plan, nullptr));
  check_status(fa_workspace_init(&workspace_));
  check_status(fa_plan_workspace(plan, &workspace_.scratch_bytes, &workspace_.state_bytes));
  if (gpu != nullptr) {
    workspace_.scratch = gpu->allocate(workspace_.scratch_bytes);
    workspace_.state = gpu->allocate(workspace_.state_bytes);
  } else {
    scratch_.reset(allocate(workspace_.scratch_bytes));
    state_.reset(allocate(workspace_.state_bytes));
    workspace_.scratch = scratch_.get();
    workspace_.state = state_.get();
  }
  if (workspace_.state_bytes > 0) check_status(fa_state_init(plan, workspace_.state, workspace_.state_bytes, nullptr));
}

void Attention::run(const fa_attention_args& args) const { check_status(fa_run(plan_.get(), &args, &workspace_, nullptr, 0)); }

}  // namespace flash_attn::tool
