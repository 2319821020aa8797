// The name of the problem being run, printed when a guard page or another fatal signal ends the test.
#pragma once

#include <string>

namespace flash_attn::test {

class CrashNote {
 public:
  explicit CrashNote(std::string text);
  ~CrashNote();
  CrashNote(const CrashNote&) = delete;
  CrashNote& operator=(const CrashNote&) = delete;

 private:
  std::string text_;
};

}  // namespace flash_attn::test
