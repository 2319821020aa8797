// Status of an operation inside the library: a code and, on failure, a sentence for the caller. Every fallible function returns
// one; nothing throws, prints or exits. api/ hands the message to the calling thread.
#pragma once

#include "flash_attn/flash_attn.h"

#include <string>
#include <utility>

namespace flash_attn {

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(fa_status code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == FA_STATUS_OK; }
  fa_status code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  fa_status code_ = FA_STATUS_OK;
  std::string message_;
};

// printf-style construction; the format names the argument, its value and what is accepted.
Status invalid(const char* format, ...) __attribute__((format(printf, 1, 2)));
Status unsupported(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string format_text(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace flash_attn

// Return early from a function that returns Status.
#define FA_TRY(expression)                                                          \
  do {                                                                              \
    if (::flash_attn::Status status_ = (expression); !status_.ok()) return status_; \
  } while (0)
