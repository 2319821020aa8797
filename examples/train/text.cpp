// See text.h.
#include "text.h"

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace train {

Text::Text(const std::string& path, int length) : length_(length) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (bytes.size() < static_cast<size_t>(length) + 2) throw std::runtime_error(path + " is too short");
  int numbers[256];
  for (int& number : numbers) number = -1;
  for (const char byte : bytes) {
    int& number = numbers[static_cast<unsigned char>(byte)];
    if (number < 0) number = vocabulary_++;
    symbols_.push_back(number);
  }
}

void Text::draw(int batch, std::vector<int>* tokens, std::vector<int>* successors) {
  tokens->clear();
  successors->clear();
  for (int b = 0; b < batch; ++b) {
    random_ = random_ * 6364136223846793005ull + 1442695040888963407ull;
    const size_t starts = symbols_.size() - static_cast<size_t>(length_);
    const auto start = static_cast<size_t>((random_ >> 33) % starts);
    for (size_t n = start; n < start + static_cast<size_t>(length_); ++n) {
      tokens->push_back(symbols_[n]);
      successors->push_back(symbols_[n + 1]);
    }
  }
}

}  // namespace train
