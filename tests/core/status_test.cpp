// Text of any length in a Status, and the log callback's levels.
#include "core/status.h"
#include "core/trace.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace flash_attn {
namespace {

TEST(Text, ShortAndLong) {
  EXPECT_EQ(format_text("%s is %d", "x", 7), "x is 7");
  EXPECT_EQ(format_text("%s", ""), "");
  for (const size_t length : {510u, 511u, 512u, 513u, 5000u}) {
    const std::string text(length, 'a');
    EXPECT_EQ(format_text("%s", text.c_str()), text);
  }
}

TEST(Text, StatusCarriesCodeAndMessage) {
  EXPECT_TRUE(Status().ok());
  const Status status = unsupported("d is %d", 600);
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(status.code(), FA_STATUS_UNSUPPORTED);
  EXPECT_EQ(status.message(), "d is 600");
  EXPECT_EQ(invalid("x").code(), FA_STATUS_INVALID_ARGUMENT);
}

TEST(Text, StatusesAreCopied) {
  Status kept = invalid("x is %d", 1);
  const Status copy = kept;
  kept = unsupported("y");
  EXPECT_EQ(copy.message(), "x is 1");
  EXPECT_EQ(copy.code(), FA_STATUS_INVALID_ARGUMENT);
  kept = copy;
  EXPECT_EQ(kept.message(), "x is 1");
  const Status& same = kept;
  kept = same;
  EXPECT_EQ(kept.message(), "x is 1");
  kept = Status();
  EXPECT_TRUE(kept.ok());
  EXPECT_EQ(kept.code(), FA_STATUS_OK);
  EXPECT_EQ(kept.message(), "");
  EXPECT_TRUE(Status(FA_STATUS_OK, "nothing is wrong").ok());
}

TEST(Log, OnlyWantedLevelsReachTheCallback) {
  std::vector<std::string> seen;
  const auto keep = [](void* user, fa_log_level level, const char* message) {
    static_cast<std::vector<std::string>*>(user)->push_back(std::to_string(level) + message);
  };
  log_text(FA_LOG_ERROR, "before");
  set_log(keep, &seen, FA_LOG_INFO);
  EXPECT_TRUE(is_logged(FA_LOG_INFO));
  EXPECT_FALSE(is_logged(FA_LOG_DEBUG));
  log_text(FA_LOG_ERROR, "e%d", 1);
  log_text(FA_LOG_INFO, "i%s", std::string(3000, 'x').c_str());
  log_text(FA_LOG_DEBUG, "d");
  set_log(nullptr, nullptr, FA_LOG_DEBUG);
  EXPECT_FALSE(is_logged(FA_LOG_ERROR));
  log_text(FA_LOG_ERROR, "after");
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0], "0e1");
  EXPECT_EQ(seen[1], "1i" + std::string(1022, 'x'));
}

}  // namespace
}  // namespace flash_attn
