// Status of an operation inside the library: a code and, on failure, a sentence for the caller. Every fallible function returns
// one; nothing throws, prints or exits. api/ hands the message to the calling thread.
#pragma once

#include "flash_attn/flash_attn.h"

#include <memory>
#include <string>

namespace flash_attn {

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(fa_status code, std::string message);
  Status(const Status& other);
  Status(Status&&) noexcept = default;
  Status& operator=(const Status& other);
  Status& operator=(Status&&) noexcept = default;

  bool ok() const { return failure_ == nullptr; }
  fa_status code() const { return failure_ != nullptr ? failure_->code : FA_STATUS_OK; }
  const std::string& message() const;

 private:
  struct Failure {
    fa_status code;
    std::string message;
  };
  // Null: ok. One pointer, since each of a plan's many steps returns a status and nearly all of them are ok.
  std::unique_ptr<const Failure> failure_;
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
