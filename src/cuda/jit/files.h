// Whole files in and out, for caches that several processes share: a reader sees a file as it was written or not at all. Returns
// reasons as text; what a failure means is the caller's business.
#pragma once

#include <string>
#include <string_view>

namespace flash_attn::cuda {

// Each returns an empty text on success, else the reason ("No such file or directory").
std::string read_file(const std::string& path, std::string* bytes);
std::string make_folders(const std::string& path);
// Through a temporary file beside it and a rename. Makes the folder if it is not there.
std::string write_file(const std::string& path, std::string_view bytes);

// The system's words for an errno.
std::string error_text(int error);

bool is_folder(const std::string& path);
bool is_file(const std::string& path);
std::string parent_folder(const std::string& path);

// Unfinished files of write_file end like this; a writer that died leaves one behind.
constexpr std::string_view kTemporarySuffix = ".tmp";

}  // namespace flash_attn::cuda
