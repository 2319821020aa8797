// The mutex of process-wide settings that are set and read as a whole, in every room: held for a few instructions, never while
// anything else is called. fork() waits for it, so that a child finds it free although another thread was setting something.
#pragma once

#include <mutex>

namespace flash_attn {

std::mutex& settings_mutex();

}  // namespace flash_attn
