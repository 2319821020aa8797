// See reference.h.
#include "tests/support/reference.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace flash_attn::test {
namespace {

constexpr double kOFloor = 1e-5;
constexpr double kLseToleranceF32 = 2e-5;
constexpr double kLseTolerance16 = 2e-4;

// Distance of a value from what it must be: infinite when one is NaN or infinite and the other is not.
double error_of(double value, double expected) {
  if (std::isnan(expected) || std::isnan(value)) return std::isnan(expected) == std::isnan(value) ? 0.0 : INFINITY;
  if (std::isinf(expected) || std::isinf(value)) return value == expected ? 0.0 : INFINITY;
  return std::fabs(value - expected);
}

std::string describe_row(const oracle::RowId& row) {
  return "request " + std::to_string(row.request) + " head " + std::to_string(row.head) + " row " + std::to_string(row.i);
}

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

std::string compare_o(const Reference& reference, const Outputs& outputs, double tolerance) {
  const auto d_v = reference.rows.empty() ? 1 : reference.exact.o.size() / reference.rows.size();
  double worst = -1;
  size_t at = 0;
  for (size_t n = 0; n < reference.exact.o.size(); ++n) {
    const double expected = reference.exact.o[n], error = error_of(outputs.o[n], expected);
    if (error > worst) {
      worst = error;
      at = n;
    }
  }
  if (worst <= tolerance) return "";
  return "o at " + describe_row(reference.rows[at / d_v]) + " column " + std::to_string(at % d_v) + " is " + number(outputs.o[at]) +
         ", must be " + number(reference.exact.o[at]) + " (error " + number(worst) + ", allowed " + number(tolerance) + ")";
}

// Rows whose exact output is 0 throughout because nothing is visible.
std::string compare_empty_rows(const Reference& reference, const Outputs& outputs, bool has_sink) {
  const size_t rows = reference.rows.size(), d_v = rows == 0 ? 0 : reference.exact.o.size() / rows;
  for (size_t n = 0; n < rows && !has_sink; ++n) {
    if (reference.exact.lse[n] != -INFINITY) continue;
    for (size_t c = 0; c < d_v; ++c) {
      if (outputs.o[n * d_v + c] != 0.0f) return "o of the empty " + describe_row(reference.rows[n]) + " is not 0";
    }
  }
  return "";
}

std::string compare_lse(const Reference& reference, const Outputs& outputs, double relative) {
  for (size_t n = 0; n < outputs.lse.size(); ++n) {
    const double expected = reference.exact.lse[n];
    const double tolerance = relative * std::max(1.0, std::isfinite(expected) ? std::fabs(expected) : 1.0);
    const double error = error_of(outputs.lse[n], expected);
    if (error <= tolerance) continue;
    return "lse at " + describe_row(reference.rows[n]) + " is " + number(outputs.lse[n]) + ", must be " + number(expected) +
           " (error " + number(error) + ", allowed " + number(tolerance) + ")";
  }
  return "";
}

bool bits_differ(float a, float b) {
  if (std::isnan(a) && std::isnan(b)) return false;
  return std::memcmp(&a, &b, sizeof a) != 0;
}

}  // namespace

Reference make_reference(const TestProblem& problem, int64_t count) {
  const oracle::View view(problem.desc(), problem.args());
  Reference reference;
  reference.rows = count < 0 ? oracle::all_rows(view) : oracle::sampled_rows(view, count);
  reference.exact = oracle::forward(view, oracle::Model::exact, reference.rows);
  reference.plain = oracle::forward(view, oracle::Model::plain, reference.rows);
  double plain_error = 0;
  for (size_t n = 0; n < reference.exact.o.size(); ++n) {
    const double error = error_of(reference.plain.o[n], reference.exact.o[n]);
    if (std::isfinite(error)) plain_error = std::max(plain_error, error);
  }
  reference.o_tolerance = 2 * plain_error + kOFloor;
  return reference;
}

std::string compare(const TestProblem& problem, const Reference& reference, const Outputs& outputs, double o_tolerance) {
  if (outputs.o.size() != reference.exact.o.size()) return "wrong number of output rows: " + problem.text();
  std::string fault = compare_o(reference, outputs, std::max(o_tolerance, reference.o_tolerance));
  if (fault.empty()) fault = compare_empty_rows(reference, outputs, problem.args().sink != nullptr);
  if (fault.empty()) fault = compare_lse(reference, outputs, problem.dtype() == FA_DTYPE_F32 ? kLseToleranceF32 : kLseTolerance16);
  return fault.empty() ? fault : fault + "\n  in " + problem.text();
}

std::string compare_bitwise(const Outputs& a, const Outputs& b) {
  if (a.o.size() != b.o.size() || a.lse.size() != b.lse.size()) return "different numbers of rows";
  for (size_t n = 0; n < a.o.size(); ++n) {
    if (bits_differ(a.o[n], b.o[n])) return "o[" + std::to_string(n) + "] is " + number(a.o[n]) + " and " + number(b.o[n]);
  }
  for (size_t n = 0; n < a.lse.size(); ++n) {
    if (bits_differ(a.lse[n], b.lse[n]))
      return "lse[" + std::to_string(n) + "] is " + number(a.lse[n]) + " and " + number(b.lse[n]);
  }
  return "";
}

double max_o_error(const Reference& reference, const Outputs& outputs) {
  double worst = 0;
  for (size_t n = 0; n < outputs.o.size(); ++n) worst = std::max(worst, error_of(outputs.o[n], reference.exact.o[n]));
  return worst;
}

}  // namespace flash_attn::test
