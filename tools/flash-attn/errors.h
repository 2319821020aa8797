// The program's errors, each with its exit code's meaning: wrong usage is 2, everything else is 1. main() prints the message, one
// line.
#pragma once

#include <stdexcept>
#include <string>

namespace flash_attn::tool {

// The command line contradicts itself or the documentation.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file cannot be read, is not what it should be, or cannot be written. The message names the file when the caller knows it.
class FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The library refused or failed, or a check of the program's own did not pass.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace flash_attn::tool
