// The caller's log callback: the only way text leaves the library.
#pragma once

#include "flash_attn/flash_attn.h"

namespace flash_attn {

void set_log(fa_log_fn log, void* user, fa_log_level level);
bool is_logged(fa_log_level level);
void log_text(fa_log_level level, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace flash_attn
