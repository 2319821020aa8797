// What tests of a run's pointers share: a description is made a problem, and its arguments are accepted, or refused with a message.
#pragma once

#include "core/problem.h"

#include <gtest/gtest.h>

#include <string>

namespace flash_attn::test {

inline Status check_described(const fa_attention_desc& desc, const fa_attention_args& args, const BorrowedMemory& memory = {}) {
  Problem problem;
  const Status status = make_problem(desc, &problem);
  EXPECT_TRUE(status.ok()) << status.message();
  return check_args(problem, args, memory);
}

inline void expect_refused(const fa_attention_desc& desc, const fa_attention_args& args, const std::string& message,
                           const BorrowedMemory& memory = {}) {
  const Status status = check_described(desc, args, memory);
  EXPECT_EQ(status.code(), FA_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(status.message().find(message), std::string::npos) << "message:  " << status.message() << "\nexpected: " << message;
}

inline void expect_accepted(const fa_attention_desc& desc, const fa_attention_args& args, const BorrowedMemory& memory = {}) {
  const Status status = check_described(desc, args, memory);
  EXPECT_TRUE(status.ok()) << status.message();
}

}  // namespace flash_attn::test
