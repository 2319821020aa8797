// Construction of Status values from printf-style text. Sits under everything else in core; knows nothing of problems or rooms.
#include "core/status.h"

#include <cstdarg>
#include <cstdio>
#include <utility>

namespace flash_attn {
namespace {

std::string format_list(const char* format, va_list list) {
  char buffer[512];
  va_list again;
  va_copy(again, list);
  const int length = std::vsnprintf(buffer, sizeof buffer, format, list);
  std::string text;
  if (length < 0) {
    text = format;  // an encoding error: the bare format still says more than nothing
  } else if (static_cast<size_t>(length) < sizeof buffer) {
    text.assign(buffer, static_cast<size_t>(length));
  } else {
    text.resize(static_cast<size_t>(length));
    std::vsnprintf(text.data(), text.size() + 1, format, again);
  }
  va_end(again);
  return text;
}

}  // namespace

Status::Status(fa_status code, std::string message) {
  if (code != FA_STATUS_OK) failure_.reset(new Failure{code, std::move(message)});
}

Status::Status(const Status& other) : failure_(other.failure_ != nullptr ? new Failure(*other.failure_) : nullptr) {}

Status& Status::operator=(const Status& other) {
  *this = Status(other);
  return *this;
}

const std::string& Status::message() const {
  static const std::string& none = *new std::string;  // never destroyed: runs may outlive static destruction
  if (failure_ == nullptr) return none;
  return failure_->message;
}

Status invalid(const char* format, ...) {
  va_list list;
  va_start(list, format);
  Status status(FA_STATUS_INVALID_ARGUMENT, format_list(format, list));
  va_end(list);
  return status;
}

Status unsupported(const char* format, ...) {
  va_list list;
  va_start(list, format);
  Status status(FA_STATUS_UNSUPPORTED, format_list(format, list));
  va_end(list);
  return status;
}

std::string format_text(const char* format, ...) {
  va_list list;
  va_start(list, format);
  std::string text = format_list(format, list);
  va_end(list);
  return text;
}

}  // namespace flash_attn
