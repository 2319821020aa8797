// What a backward's gradients must be and how far off they may be: the fp64 oracle, the plain model, and the tolerance rule of
// docs/design.md ("Precision"). Independent of rooms: whoever can run a BackwardProblem can have it checked.
#pragma once

#include "tests/support/backward_problem.h"
#include "tests/support/runner.h"

#include <functional>
#include <string>
#include <vector>

namespace flash_attn::test {

struct BackwardReference {
  oracle::Gradients exact;            // base included where the case accumulates
  double tolerance[kGradients] = {};  // 3 max|plain err| + 1e-4
};

BackwardReference make_backward_reference(const BackwardProblem& problem);

// The reference's tolerances, or larger ones found over several draws of the case's data: the rule compares two maxima, and over a
// few elements that of the plain model is luck.
BackwardReference make_pooled_reference(const BackwardProblem& problem, uint64_t seed);

// Empty if the gradients obey the rule, elements without a contribution are exactly 0 (or as they were), and nothing is NaN.
std::string compare_gradients(const BackwardProblem& problem, const BackwardReference& reference, const GradientValues& values);
// Empty if bitwise equal; otherwise the first difference.
std::string compare_bitwise(const GradientValues& a, const GradientValues& b);

struct BackwardRun {
  fa_status status = FA_STATUS_OK;
  std::string message;  // fa_last_error of a failure
  std::string kernel;   // full name of what ran
  std::string fault;    // a wrong kernel, damaged memory; empty if none
  GradientValues gradients;

  bool ok() const { return status == FA_STATUS_OK && fault.empty(); }
  std::string text() const;
};

// On a CPU: plan, prepare, run, read the gradients. Leaves the outputs' initial contents. Counts towards the coverage table.
BackwardRun run_backward(BackwardProblem* problem, const Choice& choice);

// One way of running problems, and its name in messages.
struct BackwardRunner {
  std::string name;
  std::function<BackwardRun(BackwardProblem*)> run;
};

// Empty if every runner agrees with the oracle. With `may_refuse`, one that says unsupported is passed over, but not all of them.
std::string check_backward(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, const std::vector<BackwardRunner>& runners,
                           bool may_refuse = false);

// The CPU's instruction sets, each forced by name.
std::vector<BackwardRunner> cpu_runners();

}  // namespace flash_attn::test
