// See backward_check.h.
#include "tests/support/backward_check.h"

#include "tests/oracle/values.h"
#include "tests/support/coverage.h"
#include "tests/support/crash_note.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace flash_attn::test {
namespace {

constexpr double kFactor = 3.0;
constexpr double kFloor = 1e-4;
constexpr size_t kEnoughElements = 3000;
constexpr int kMostDraws = 16;
constexpr double kMostFlops = 3e8;  // of all draws of one case together

oracle::Gradient* gradient_of(oracle::Gradients* all, int id) {
  oracle::Gradient* const list[kGradients] = {&all->dq, &all->dk, &all->dv, &all->dbias, &all->dsink, &all->dslopes};
  return list[id];
}

const oracle::Gradient& gradient_of(const oracle::Gradients& all, int id) {
  return *gradient_of(const_cast<oracle::Gradients*>(&all), id);
}

// Elements whose value is something a run adds to.
void add_base(const BackwardProblem& problem, oracle::Gradients* gradients) {
  for (int id = 0; id < kGradients; ++id) {
    if (!problem.accumulates(static_cast<GradientId>(id))) continue;
    std::vector<double>& values = gradient_of(gradients, id)->values;
    const std::vector<float>& base = problem.base(static_cast<GradientId>(id));
    for (size_t n = 0; n < values.size(); ++n) values[n] += base[n];
  }
}

double max_plain_error(const BackwardProblem& problem, int id, const oracle::Gradients& exact, const oracle::Gradients& plain) {
  const fa_dtype dtype = problem.tensor(static_cast<GradientId>(id)).dtype;
  const std::vector<double>& right = gradient_of(exact, id).values;
  const std::vector<double>& values = gradient_of(plain, id).values;
  double worst = 0;
  for (size_t n = 0; n < values.size(); ++n) {
    const double error = std::fabs(oracle::round_value(dtype, static_cast<float>(values[n])) - right[n]);
    if (std::isfinite(error)) worst = std::max(worst, error);
  }
  return worst;
}

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

// "[1, 2, 3, 4]", the indices of the n-th element.
std::string indices_text(const fa_tensor_desc& tensor, size_t n) {
  std::vector<int64_t> indices(static_cast<size_t>(tensor.rank));
  auto rest = static_cast<int64_t>(n);
  for (int axis = tensor.rank - 1; axis >= 0; --axis) {
    indices[static_cast<size_t>(axis)] = rest % tensor.shape[axis];
    rest /= tensor.shape[axis];
  }
  std::string text;
  for (const int64_t index : indices) text += (text.empty() ? "[" : ", ") + std::to_string(index);
  return text + "]";
}

std::string compare_one(const BackwardProblem& problem, int id, const BackwardReference& reference,
                        const std::vector<float>& values) {
  const oracle::Gradient& exact = gradient_of(reference.exact, id);
  const fa_tensor_desc& tensor = problem.tensor(static_cast<GradientId>(id));
  const std::string name = kGradientNames[id];
  if (values.size() != exact.values.size()) return name + " has a wrong number of elements";
  const bool accumulates = problem.accumulates(static_cast<GradientId>(id));
  double worst = -1;
  size_t at = 0;
  for (size_t n = 0; n < values.size(); ++n) {
    if (!exact.live[n]) {
      const float expected = accumulates ? problem.base(static_cast<GradientId>(id))[n] : 0.0f;
      if (values[n] == expected) continue;
      return name + indices_text(tensor, n) + ", to which nothing contributes, is " + number(values[n]) + ", must be " +
             number(expected);
    }
    const double error = std::isnan(values[n]) ? INFINITY : std::fabs(values[n] - exact.values[n]);
    if (error <= worst) continue;
    worst = error;
    at = n;
  }
  if (worst <= reference.tolerance[id]) return "";
  return name + indices_text(tensor, at) + " is " + number(values[at]) + ", must be " + number(exact.values[at]) + " (error " +
         number(worst) + ", allowed " + number(reference.tolerance[id]) + ")";
}

}  // namespace

BackwardReference make_backward_reference(const BackwardProblem& problem) {
  const oracle::View view(problem.desc(), problem.args());
  BackwardReference reference;
  reference.exact = oracle::backward(view, oracle::Model::exact);
  oracle::Gradients plain = oracle::backward(view, oracle::Model::plain);
  add_base(problem, &reference.exact);
  add_base(problem, &plain);
  for (int id = 0; id < kGradients; ++id) {
    reference.tolerance[id] = kFactor * max_plain_error(problem, id, reference.exact, plain) + kFloor;
  }
  return reference;
}

BackwardReference make_pooled_reference(const BackwardProblem& problem, uint64_t seed) {
  BackwardReference reference = make_backward_reference(problem);
  size_t least = SIZE_MAX;
  for (int id = 0; id < kGradients; ++id) {
    const size_t elements = gradient_of(reference.exact, id).values.size();
    if (elements > 0) least = std::min(least, elements);
  }
  const double work = flops(problem.spec());
  size_t seen = least;
  for (int draw = 1; least != SIZE_MAX && seen < kEnoughElements && draw < kMostDraws && work * draw < kMostFlops; ++draw) {
    const BackwardProblem other(problem.spec(), problem.dtype(), seed + (static_cast<uint64_t>(draw) << 40));
    const BackwardReference drawn = make_backward_reference(other);
    for (int id = 0; id < kGradients; ++id) {
      reference.tolerance[id] = std::max(reference.tolerance[id], drawn.tolerance[id]);
    }
    seen += least;
  }
  return reference;
}

std::string compare_gradients(const BackwardProblem& problem, const BackwardReference& reference, const GradientValues& values) {
  std::string faults;
  for (int id = 0; id < kGradients; ++id) {
    const std::string fault = compare_one(problem, id, reference, values.of[id]);
    if (!fault.empty()) faults += (faults.empty() ? "" : "; ") + fault;
  }
  return faults.empty() ? faults : faults + "\n  in " + problem.text();
}

std::string compare_bitwise(const GradientValues& a, const GradientValues& b) {
  for (int id = 0; id < kGradients; ++id) {
    if (a.of[id].size() != b.of[id].size()) return std::string(kGradientNames[id]) + " has different numbers of elements";
    for (size_t n = 0; n < a.of[id].size(); ++n) {
      if (std::memcmp(&a.of[id][n], &b.of[id][n], sizeof(float)) == 0) continue;
      return std::string(kGradientNames[id]) + "[" + std::to_string(n) + "] is " + number(a.of[id][n]) + " and " +
             number(b.of[id][n]);
    }
  }
  return "";
}

std::string BackwardRun::text() const {
  if (status != FA_STATUS_OK) return std::string(fa_status_name(status)) + ": " + message;
  return fault.empty() ? kernel + ": ok" : kernel + ": " + fault;
}

BackwardRun run_backward(BackwardProblem* problem, const Choice& choice) {
  BackwardRun run;
  const CrashNote note(problem->text() + " on " + choice.text());
  const PlanHandle plan(problem->desc(), choice);
  run.status = plan.status();
  if (run.status != FA_STATUS_OK) {
    run.message = fa_last_error();
    return run;
  }
  run.kernel = fa_plan_kernel(plan.get());
  PlannedWorkspace workspace(plan.get());
  run.status = fa_prepare(plan.get(), nullptr);
  if (run.status == FA_STATUS_OK) run.status = fa_run(plan.get(), &problem->args(), workspace.get(), nullptr, 0);
  if (run.status != FA_STATUS_OK) {
    run.message = fa_last_error();
    return run;
  }
  count_run(problem->spec(), problem->dtype(), kBackwardKernel, choice.isa);
  const std::string isa = run.kernel.substr(run.kernel.rfind('/') + 1);
  if (!choice.isa.empty() && isa != choice.isa) run.fault = "planned " + run.kernel + " though " + choice.isa + " was forced";
  run.gradients = problem->read_outputs();
  if (run.fault.empty()) run.fault = workspace.find_damage();
  if (run.fault.empty()) run.fault = problem->find_damage();
  problem->reset_outputs();
  if (!run.fault.empty()) run.fault += "\n  in " + problem->text();
  return run;
}

std::string check_backward(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, const std::vector<BackwardRunner>& runners,
                           bool may_refuse) {
  // Odd seeds put buffers against the guard page behind them, even ones against that before them.
  BackwardProblem problem(spec, dtype, seed, seed % 2 == 1 ? GuardedBuffer::Edge::end : GuardedBuffer::Edge::begin);
  const BackwardReference reference = make_pooled_reference(problem, seed);
  std::string faults;
  bool is_served = false;
  for (const BackwardRunner& runner : runners) {
    const BackwardRun run = runner.run(&problem);
    if (may_refuse && run.status == FA_STATUS_UNSUPPORTED && !run.message.empty()) continue;
    is_served = true;
    const std::string fault =
        run.ok() ? compare_gradients(problem, reference, run.gradients) : run.text() + "\n  in " + problem.text();
    if (!fault.empty()) faults += runner.name + ": " + fault + "\n";
  }
  return is_served ? faults : faults + "no kernel serves " + problem.text() + "\n";
}

std::vector<BackwardRunner> cpu_runners() {
  std::vector<BackwardRunner> runners;
  for (const std::string& isa : isa_names()) {
    runners.push_back({isa, [isa](BackwardProblem* problem) { return run_backward(problem, {"", isa}); }});
  }
  return runners;
}

}  // namespace flash_attn::test
