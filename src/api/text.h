// Handing text to a caller's buffer, by one rule for every function that does.
#pragma once

#include "core/status.h"

#include <cstddef>
#include <string>

namespace flash_attn::api {

// Is the buffer one that put_text can use?
Status check_buffer(const char* buffer, size_t capacity);

// Writes as much of the text as fits, with a final 0, and the full length to *length unless it is null.
void put_text(const std::string& text, char* buffer, size_t capacity, size_t* length);

}  // namespace flash_attn::api
