// The border of the ABI: turns a Status, or an exception that got this far, into an fa_status and the calling thread's message.
// Every exported function that can fail runs its body in guarded().
#pragma once

#include "core/status.h"

#include <exception>
#include <new>
#include <utility>

namespace flash_attn::api {

// Keeps the message for fa_last_error and returns the code. Does not touch the message on success.
fa_status report(const Status& status) noexcept;
// The same for text that outlives the program, without allocating.
fa_status report_fixed(fa_status code, const char* message) noexcept;
// For an exception that no part of the library handles.
fa_status report_exception(const char* what) noexcept;

const char* last_message() noexcept;

// Runs body(), which returns a Status.
template <typename Body>
fa_status guarded(Body&& body) noexcept {
  try {
    const Status status = std::forward<Body>(body)();
    return status.ok() ? FA_STATUS_OK : report(status);
  } catch (const std::bad_alloc&) {
    return report_fixed(FA_STATUS_OUT_OF_MEMORY, "the host allocator failed");
  } catch (const std::exception& exception) {
    return report_exception(exception.what());
  } catch (...) {
    return report_fixed(FA_STATUS_INTERNAL, "an exception of unknown type; did a callback throw?");
  }
}

// Runs body(), which returns a value; `fallback` if it throws.
template <typename Value, typename Body>
Value guarded_value(Value fallback, Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (...) {
    return fallback;
  }
}

}  // namespace flash_attn::api
