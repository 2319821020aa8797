// The text that the example learns from: characters as numbers, and random stretches of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace train {

class Text {
 public:
  // Throws std::runtime_error if the file cannot be read or is too short.
  Text(const std::string& path, int length);

  int vocabulary() const { return vocabulary_; }
  // `batch` stretches of tokens, and for each token the one that follows. The same sequence of calls gives the same stretches.
  void draw(int batch, std::vector<int>* tokens, std::vector<int>* successors);

 private:
  int length_;
  int vocabulary_ = 0;
  std::vector<int> symbols_;
  uint64_t random_ = 7;
};

}  // namespace train
