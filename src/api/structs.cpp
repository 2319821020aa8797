// Defaults and version handling of the structs that callers pass.
#include "api/structs.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace flash_attn::api {
namespace {

// How far a newer caller's struct may reach past ours; also a bound on what a wild struct_size makes us read.
constexpr size_t kMostGrowth = 4096;

// May `given` be read as a struct of `known` bytes whose first version had `least`? Reads as many bytes as it claims at most.
Status check_size(const char* name, const char* init, const void* given, size_t size, size_t least, size_t known) {
  if (size < least || size > known + kMostGrowth || size % sizeof(void*) != 0) {
    return invalid("%s->struct_size is %zu but must be %zu, as %s sets it", name, size, known, init);
  }
  const char* bytes = static_cast<const char*>(given);
  for (size_t i = known; i < size; ++i) {
    if (bytes[i] == 0) continue;
    return invalid(
        "%s->struct_size is %zu and byte %zu is set, of a field that this library (version %d.%d, %zu bytes) does not know", name,
        size, i, FA_VERSION_MAJOR, FA_VERSION_MINOR, known);
  }
  return Status();
}

template <typename Struct>
Status adopt_struct(const char* name, const char* init, const Struct* given, size_t least, Struct* storage, const Struct** usable) {
  if (given == nullptr) return invalid("%s is NULL", name);
  *usable = given;
  const size_t size = given->struct_size;
  if (size == sizeof(Struct)) return Status();
  FA_TRY(check_size(name, init, given, size, least, sizeof(Struct)));
  if (size > sizeof(Struct)) return Status();
  set_defaults(storage);
  std::memcpy(static_cast<void*>(storage), given, size);
  storage->struct_size = sizeof(Struct);
  *usable = storage;
  return Status();
}

}  // namespace

void set_defaults(fa_attention_desc* desc) {
  std::memset(static_cast<void*>(desc), 0, sizeof *desc);
  desc->struct_size = sizeof *desc;
  desc->device_index = -1;
  desc->window_left = -1;
  desc->window_right = -1;
  desc->scale = NAN;
}

void set_defaults(fa_attention_args* args) {
  std::memset(static_cast<void*>(args), 0, sizeof *args);
  args->struct_size = sizeof *args;
}

void set_defaults(fa_workspace* workspace) {
  std::memset(static_cast<void*>(workspace), 0, sizeof *workspace);
  workspace->struct_size = sizeof *workspace;
}

Status adopt(const fa_attention_desc* given, fa_attention_desc* storage, const fa_attention_desc** usable) {
  return adopt_struct("desc", "fa_attention_desc_init", given, offsetof(fa_attention_desc, lse), storage, usable);
}

Status adopt(const fa_attention_args* given, fa_attention_args* storage, const fa_attention_args** usable) {
  return adopt_struct("args", "fa_attention_args_init", given, offsetof(fa_attention_args, lse), storage, usable);
}

Status adopt(const fa_workspace* given, fa_workspace* storage, const fa_workspace** usable) {
  if (given != nullptr)
    return adopt_struct("workspace", "fa_workspace_init", given, offsetof(fa_workspace, state), storage, usable);
  set_defaults(storage);
  *usable = storage;
  return Status();
}

}  // namespace flash_attn::api
