// The caller's structs across versions of the ABI. struct_size tells which fields the caller knows: missing ones get their
// defaults, ones that this library does not know must be zero.
#pragma once

#include "core/status.h"
#include "flash_attn/flash_attn.h"

namespace flash_attn::api {

// Defaults of each struct; writes struct_size.
void set_defaults(fa_attention_desc* desc);
void set_defaults(fa_attention_args* args);
void set_defaults(fa_workspace* workspace);

// Point *usable to the caller's struct, or to *storage when it had to be completed.
Status adopt(const fa_attention_desc* given, fa_attention_desc* storage, const fa_attention_desc** usable);
Status adopt(const fa_attention_args* given, fa_attention_args* storage, const fa_attention_args** usable);
// A null workspace stands for an empty one.
Status adopt(const fa_workspace* given, fa_workspace* storage, const fa_workspace** usable);

}  // namespace flash_attn::api
