// See crash_note.h. The handler uses async-signal-safe calls only, then lets the signal take its default course.
#include "tests/support/crash_note.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <utility>

namespace flash_attn::test {
namespace {

std::atomic<const char*> current_text = nullptr;

void print_note(int signal_number) {
  const char* const text = current_text.load();
  const char before[] = "\nfatal signal (a guard page was touched?) while running: ";
  if (text != nullptr) {
    (void)!write(STDERR_FILENO, before, sizeof before - 1);
    (void)!write(STDERR_FILENO, text, std::strlen(text));
    (void)!write(STDERR_FILENO, "\n", 1);
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

void install_handler() {
  static const bool installed = [] {
    for (const int signal_number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) signal(signal_number, print_note);
    return true;
  }();
  (void)installed;
}

}  // namespace

CrashNote::CrashNote(std::string text) : text_(std::move(text)) {
  install_handler();
  current_text = text_.c_str();
}

CrashNote::~CrashNote() { current_text = nullptr; }

}  // namespace flash_attn::test
