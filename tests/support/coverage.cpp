// See coverage.h. One line per cell: feature, dtype, kernel, isa, runs, refusals, separated by tabs.
#include "tests/support/coverage.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <mutex>

namespace flash_attn::test {
namespace {

struct Counts {
  int64_t runs = 0, refusals = 0;
};

// One append per process, so that test programs may run at the same time.
void append_to_file(const char* path, const std::string& text) {
  const int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (file < 0) return;
  (void)!write(file, text.data(), text.size());
  close(file);
}

std::string to_lines(const std::map<std::string, Counts>& cells) {
  std::string text;
  for (const auto& [cell, counts] : cells) {
    text += cell + "\t" + std::to_string(counts.runs) + "\t" + std::to_string(counts.refusals) + "\n";
  }
  return text;
}

class Counter {
 public:
  ~Counter() {
    const char* const path = std::getenv("FLASH_ATTN_COVERAGE_FILE");
    if (path != nullptr && !cells_.empty()) append_to_file(path, to_lines(cells_));
  }

  void add(const CaseSpec& spec, fa_dtype dtype, const std::string& kernel, const std::string& isa, bool ran) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const std::string& feature : features(spec)) {
      Counts& counts = cells_[feature + "\t" + dtype_text(dtype) + "\t" + kernel + "\t" + isa];
      ++(ran ? counts.runs : counts.refusals);
    }
  }

 private:
  std::mutex mutex_;
  std::map<std::string, Counts> cells_;
};

Counter& counter() {
  static Counter instance;
  return instance;
}

}  // namespace

void count_run(const CaseSpec& spec, fa_dtype dtype, const std::string& kernel, const std::string& isa) {
  if (!kernel.empty() && !isa.empty()) counter().add(spec, dtype, kernel, isa, true);
}

void count_refusal(const CaseSpec& spec, fa_dtype dtype, const std::string& kernel, const std::string& isa) {
  if (!kernel.empty() && !isa.empty()) counter().add(spec, dtype, kernel, isa, false);
}

}  // namespace flash_attn::test
