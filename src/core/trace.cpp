// Holder of the caller's log callback, process-wide. A message below the wanted level costs one relaxed load.
#include "core/trace.h"

#include "core/settings_mutex.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <mutex>

namespace flash_attn {
namespace {

constexpr int kOff = -1;

struct Sink {
  fa_log_fn log = nullptr;
  void* user = nullptr;
};

std::atomic<int> wanted_level{kOff};
Sink sink;  // under settings_mutex, which keeps the two a pair

}  // namespace

void set_log(fa_log_fn log, void* user, fa_log_level level) {
  const std::lock_guard<std::mutex> lock(settings_mutex());
  sink = Sink{log, user};
  wanted_level.store(log != nullptr ? level : kOff, std::memory_order_relaxed);
}

bool is_logged(fa_log_level level) { return level <= wanted_level.load(std::memory_order_relaxed); }

void log_text(fa_log_level level, const char* format, ...) {
  if (!is_logged(level)) return;
  Sink current;
  {
    const std::lock_guard<std::mutex> lock(settings_mutex());
    current = sink;
  }
  if (current.log == nullptr) return;
  char message[1024];  // longer ones are cut: logging must work when memory is short
  va_list list;
  va_start(list, format);
  std::vsnprintf(message, sizeof message, format, list);
  va_end(list);
  current.log(current.user, level, message);
}

}  // namespace flash_attn
