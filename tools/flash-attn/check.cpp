// `flash-attn check`: the test cases on this machine, every kernel on every instruction set, against the fp64 oracle. The cases,
// the oracle and the tolerance are those of the project's tests.
#include "commands.h"
#include "engine.h"
#include "errors.h"
#include "tests/support/backward_check.h"
#include "tests/support/reference.h"
#include "tests/support/runner.h"
#include "timing.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>

namespace flash_attn::tool {
namespace {

constexpr int64_t kSampledRows = 64;
constexpr uint64_t kSeed = 20240229;

struct Tally {
  int right = 0, refused = 0, wrong = 0;
  double seconds = 0;
};

class SelfTest {
 public:
  explicit SelfTest(const CheckOptions& options) : options_(options), is_terminal_(isatty(STDERR_FILENO) != 0) {
    for (const test::Choice& choice : test::all_choices()) {
      const auto& isas = options.isas;
      if (isas.empty() || std::find(isas.begin(), isas.end(), choice.isa) != isas.end()) choices_.push_back(choice);
    }
  }

  void run() {
    for (const test::CaseSpec& spec : test::all_cases()) {
      if ((spec.labels & test::kTest) == 0 || spec.name.find(options_.filter) == std::string::npos) continue;
      ++cases_;
      for (const fa_dtype dtype : test::dtype_list(spec.dtypes)) {
        if (is_wanted(dtype)) run_case(spec, dtype);
      }
    }
    for (const test::CaseSpec& spec : test::backward_cases()) {
      if ((spec.labels & test::kTest) == 0 || spec.name.find(options_.filter) == std::string::npos) continue;
      ++cases_;
      for (const fa_dtype dtype : test::dtype_list(spec.dtypes)) {
        if (is_wanted(dtype)) run_backward_case(spec, dtype);
      }
    }
    if (is_terminal_) std::fprintf(stderr, "\r\033[K");
    if (cases_ == 0) throw UsageError("--filter is '" + options_.filter + "' but no case has that in its name");
    finish();
  }

 private:
  bool is_wanted(fa_dtype dtype) const {
    const auto& dtypes = options_.dtypes;
    return dtypes.empty() || std::find(dtypes.begin(), dtypes.end(), dtype_to_name(dtype)) != dtypes.end();
  }

  void show(const test::CaseSpec& spec, fa_dtype dtype) const {
    if (!is_terminal_) return;
    const char* const direction = spec.direction == FA_BACKWARD ? "backward of " : "";
    std::fprintf(stderr, "\r\033[K%d runs, now %s%s %s", runs_, direction, spec.name.c_str(), dtype_to_name(dtype));
  }

  void run_backward_case(const test::CaseSpec& spec, fa_dtype dtype) {
    show(spec, dtype);
    test::BackwardProblem problem(spec, dtype, kSeed);
    const test::BackwardReference reference = test::make_pooled_reference(problem, kSeed);
    for (const std::string& isa : isa_names()) {
      const auto& isas = options_.isas;
      if (!isas.empty() && std::find(isas.begin(), isas.end(), isa) == isas.end()) continue;
      const double begin = seconds_now();
      const test::BackwardRun result = test::run_backward(&problem, {"", isa});
      Tally& tally = tallies_["cpu/backward/" + isa];
      tally.seconds += seconds_now() - begin;
      ++runs_;
      std::string fault;
      if (result.status == FA_STATUS_UNSUPPORTED) {
        ++tally.refused;
      } else {
        fault = result.ok() ? test::compare_gradients(problem, reference, result.gradients) : result.text();
        ++(fault.empty() ? tally.right : tally.wrong);
      }
      report(spec, dtype, {"backward", isa}, result.message, fault);
    }
  }

  void run_case(const test::CaseSpec& spec, fa_dtype dtype) {
    show(spec, dtype);
    test::TestProblem problem(spec, dtype, kSeed);
    const test::Reference reference = test::make_reference(problem, kSampledRows);
    for (const test::Choice& choice : choices_) {
      const double begin = seconds_now();
      const test::RunResult result = test::run_problem(&problem, choice, reference.rows);
      Tally& tally = tallies_["cpu/" + choice.kernel + "/" + choice.isa];
      tally.seconds += seconds_now() - begin;
      ++runs_;
      std::string fault;
      if (result.status == FA_STATUS_UNSUPPORTED) {
        ++tally.refused;
      } else {
        fault = result.ok() ? test::compare(problem, reference, result.outputs) : result.text();
        ++(fault.empty() ? tally.right : tally.wrong);
      }
      report(spec, dtype, choice, result.message, fault);
    }
  }

  // `refusal` says why the kernel does not serve the case; empty if it ran.
  void report(const test::CaseSpec& spec, fa_dtype dtype, const test::Choice& choice, const std::string& refusal,
              const std::string& fault) const {
    if (fault.empty() && !options_.is_verbose) return;
    if (is_terminal_) std::fprintf(stderr, "\r\033[K");
    const std::string verdict = !fault.empty() ? "WRONG: " + fault : (refusal.empty() ? "ok" : "not served: " + refusal);
    std::printf("%-32s %-4s %-24s %s\n", spec.name.c_str(), dtype_to_name(dtype), choice.text().c_str(), verdict.c_str());
    std::fflush(stdout);
  }

  void finish() const {
    int wrong = 0, right = 0;
    std::printf("%-28s %8s %11s %6s %9s\n", "kernel", "right", "not served", "wrong", "seconds");
    for (const auto& [name, tally] : tallies_) {
      std::printf("%-28s %8d %11d %6d %9.2f\n", name.c_str(), tally.right, tally.refused, tally.wrong, tally.seconds);
      wrong += tally.wrong;
      right += tally.right;
    }
    if (wrong > 0)
      throw Failure(std::to_string(wrong) + " of " + std::to_string(wrong + right) + " runs are wrong on this machine");
    if (right == 0) throw Failure("no kernel of this machine serves any of the cases chosen");
    std::printf("All %d runs of %d cases agree with the fp64 reference.\n", right, cases_);
  }

  const CheckOptions& options_;
  bool is_terminal_;
  std::vector<test::Choice> choices_;
  std::map<std::string, Tally> tallies_;
  int cases_ = 0, runs_ = 0;
};

}  // namespace

void self_test(const CheckOptions& options) {
  for (const std::string& name : options.dtypes) {
    if (dtype_from_name(name) == FA_DTYPE_NONE) throw UsageError("--dtype is '" + name + "' but must be f32, bf16 or f16");
  }
  const auto known = isa_names();
  for (const std::string& name : options.isas) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw UsageError("--isa is '" + name + "' but this machine has only those that `flash-attn info` names");
    }
  }
  SelfTest(options).run();
}

}  // namespace flash_attn::tool
