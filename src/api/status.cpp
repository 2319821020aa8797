// Status names, the calling thread's last message, and the version.
#include "api/guard.h"

#include <cstdio>
#include <string>

namespace flash_attn::api {
namespace {

// The last failure's message: fixed text if set, else the string. Fixed text serves where allocating failed.
struct LastMessage {
  std::string text;
  const char* fixed = nullptr;
};

thread_local LastMessage last;

}  // namespace

fa_status report(const Status& status) noexcept {
  try {
    last.text = status.message();
    last.fixed = nullptr;
  } catch (...) {
    last.fixed = "failed, and there was no memory for the message";
  }
  return status.code();
}

fa_status report_fixed(fa_status code, const char* message) noexcept {
  last.fixed = message;
  return code;
}

fa_status report_exception(const char* what) noexcept {
  char message[256];
  std::snprintf(message, sizeof message, "an exception that the library should have handled: %s", what);
  try {
    return report(Status(FA_STATUS_INTERNAL, message));
  } catch (...) {
    return report_fixed(FA_STATUS_INTERNAL, "an exception that the library should have handled");
  }
}

const char* last_message() noexcept { return last.fixed != nullptr ? last.fixed : last.text.c_str(); }

}  // namespace flash_attn::api

const char* fa_status_name(fa_status status) {
  switch (status) {
    case FA_STATUS_OK:
      return "FA_STATUS_OK";
    case FA_STATUS_INVALID_ARGUMENT:
      return "FA_STATUS_INVALID_ARGUMENT";
    case FA_STATUS_UNSUPPORTED:
      return "FA_STATUS_UNSUPPORTED";
    case FA_STATUS_OUT_OF_MEMORY:
      return "FA_STATUS_OUT_OF_MEMORY";
    case FA_STATUS_DEVICE_ERROR:
      return "FA_STATUS_DEVICE_ERROR";
    case FA_STATUS_COMPILE_ERROR:
      return "FA_STATUS_COMPILE_ERROR";
    case FA_STATUS_INTERNAL:
      return "FA_STATUS_INTERNAL";
    default:
      return "unknown fa_status";
  }
}

const char* fa_last_error(void) { return flash_attn::api::last_message(); }

uint32_t fa_version(void) { return FA_VERSION_MAJOR * 10000 + FA_VERSION_MINOR * 100 + FA_VERSION_PATCH; }
