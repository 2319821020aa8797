// Arrays on disk: "x.npy" or "x.safetensors:name" in, .npy out. Errors are FileErrors that name the file.
#pragma once

#include "array.h"

#include <string>
#include <utility>
#include <vector>

namespace flash_attn::tool {

Array load_array(const std::string& path);

std::string read_text(const std::string& path);

// Write all files or none: each goes to a temporary beside its target first, and only when all are complete are they renamed.
void write_files(const std::vector<std::pair<std::string, std::vector<std::byte>>>& files);
void write_text(const std::string& path, const std::string& text);

}  // namespace flash_attn::tool
