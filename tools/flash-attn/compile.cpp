// `flash-attn compile`: an archive of the kernels that sets of problems need on given architectures, for machines without a
// compiler. Which kernels those are is the planner's affair; this file only knows problems.
#include "commands.h"
#include "engine.h"
#include "errors.h"
#include "serving_cases.h"
#include "tests/support/device_descs.h"
#include "timing.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <deque>

namespace flash_attn::tool {
namespace {

// The descriptions asked for. What they point to lives as long as this.
class Problems {
 public:
  explicit Problems(const std::vector<std::string>& sets) {
    for (const std::string& set : sets) {
      if (set == "default")
        add(serving_cases());
      else if (set == "bench")
        add_labelled(test::kBench);
      else if (set == "test")
        add_labelled(test::kTest);
      else
        add_case(set);
    }
    pointers_.reserve(descs_.size());
    for (const fa_attention_desc& desc : descs_) pointers_.push_back(&desc);
  }

  const std::vector<const fa_attention_desc*>& pointers() const { return pointers_; }

 private:
  void add(const std::vector<fa_attention_desc>& descs) { descs_.insert(descs_.end(), descs.begin(), descs.end()); }

  void add_labelled(test::Label label) {
    for (const test::CaseSpec& spec : test::all_cases()) {
      if ((spec.labels & label) != 0) add(test::device_descs(spec));
    }
  }

  void add_case(const std::string& name) {
    const auto& cases = test::all_cases();
    const auto at = std::find_if(cases.begin(), cases.end(), [&](const test::CaseSpec& spec) { return spec.name == name; });
    if (at == cases.end())
      throw UsageError("--cases has '" + name + "' but must name default, bench, test or cases of the test and bench table");
    add(test::device_descs(*at));
  }

  std::deque<fa_attention_desc> descs_;
  std::vector<const fa_attention_desc*> pointers_;
};

void print_message(void*, fa_log_level, const char* message) {
  std::fprintf(stderr, "%s\n", message);  // one call, as several threads come here
}

int64_t file_bytes(const std::string& path) {
  struct stat facts;
  return stat(path.c_str(), &facts) == 0 ? static_cast<int64_t>(facts.st_size) : 0;
}

}  // namespace

void compile_kernels(const CompileOptions& options) {
  if (options.archs.empty()) throw UsageError("--arch is empty but must name architectures, such as sm_90a");
  if (options.threads < 0) throw UsageError("--threads is " + std::to_string(options.threads) + " but must be 0 or more");
  const Problems problems(options.sets);
  std::string archs;
  for (const std::string& arch : options.archs) archs += (archs.empty() ? "" : ",") + arch;
  check_status(fa_set_log(print_message, nullptr, options.is_verbose ? FA_LOG_INFO : FA_LOG_ERROR));
  const double begin = seconds_now();
  int64_t kernels = 0, unserved = 0;
  check_status(fa_archive_write(options.out.c_str(), archs.c_str(), problems.pointers().data(),
                                static_cast<int64_t>(problems.pointers().size()), options.threads, &kernels, &unserved));
  std::printf("%s: %lld kernels for %s, %.1f MB, %.0f s\n", options.out.c_str(), static_cast<long long>(kernels), archs.c_str(),
              static_cast<double>(file_bytes(options.out)) * 1e-6, seconds_now() - begin);
  if (unserved > 0)
    std::printf("%lld of %zu problems times %zu architectures are served by no kernel (explain says why)\n",
                static_cast<long long>(unserved), problems.pointers().size(), options.archs.size());
}

}  // namespace flash_attn::tool
