// See check.h.
#include "tests/support/check.h"

#include <algorithm>
#include <cstdlib>
#include <set>

namespace flash_attn::test {
namespace {

// The rule compares two maxima. Over a few hundred outputs that of the plain model is luck, so small problems take it over several
// draws of their data.
constexpr size_t kEnoughOutputs = 3000;
constexpr int kMostDraws = 16;

}  // namespace

double pooled_tolerance(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, const Reference& own) {
  size_t outputs = own.exact.o.size();
  double tolerance = own.o_tolerance;
  if (outputs == 0) return tolerance;
  for (int draw = 1; outputs < kEnoughOutputs && draw < kMostDraws; ++draw) {
    const Reference other = make_reference(TestProblem(spec, dtype, seed + (static_cast<uint64_t>(draw) << 40)));
    outputs += other.exact.o.size();
    tolerance = std::max(tolerance, other.o_tolerance);
  }
  return tolerance;
}

std::string check_case(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, const CheckOptions& options) {
  // Odd seeds put buffers against the guard page behind them, even ones against that before them.
  TestProblem problem(spec, dtype, seed, seed % 2 == 1 ? GuardedBuffer::Edge::end : GuardedBuffer::Edge::begin);
  const Reference reference = make_reference(problem, options.sampled_rows);
  double tolerance = options.o_tolerance;
  if (tolerance == 0 && options.sampled_rows < 0) tolerance = pooled_tolerance(spec, dtype, seed, reference);
  std::set<std::string> wanted, served;
  std::string faults;
  for (const Choice& choice : options.choices) {
    wanted.insert(choice.isa);
    const RunResult result = run_problem(&problem, choice, reference.rows);
    if (result.status == FA_STATUS_UNSUPPORTED && !choice.kernel.empty() && !result.message.empty()) continue;
    served.insert(choice.isa);
    std::string fault =
        result.ok() ? compare(problem, reference, result.outputs, tolerance) : result.text() + "\n  in " + problem.text();
    if (!fault.empty()) faults += choice.text() + ": " + fault + "\n";
  }
  for (const std::string& isa : wanted) {
    if (served.count(isa) == 0) faults += "no kernel of " + isa + " serves " + problem.text() + "\n";
  }
  return faults;
}

std::string check_case(const CaseSpec& spec, uint64_t seed, const CheckOptions& options) {
  std::string faults;
  for (const fa_dtype dtype : dtype_list(spec.dtypes))
    faults += check_case(spec, dtype, seed + static_cast<uint64_t>(dtype), options);
  return faults;
}

uint64_t environment_number(const char* name, uint64_t standard) {
  const char* const text = std::getenv(name);
  return text == nullptr || *text == '\0' ? standard : std::strtoull(text, nullptr, 0);
}

}  // namespace flash_attn::test
