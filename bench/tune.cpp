// See tune.h. For each class of problems, schedules are tried step by step, compiled side by side by threads, timed in interleaved
// rounds, and compared with the planner's own schedule, both in speed and in what they compute.
#include "bench/tune.h"

#include "bench/tune_problems.h"
#include "bench/tune_space.h"
#include "tools/flash-attn/errors.h"
#include "tools/flash-attn/files.h"
#include "tools/flash-attn/run.h"
#include "tools/flash-attn/timing.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <memory>
#include <sstream>
#include <thread>

namespace flash_attn::bench {
namespace {

using tool::Attention;
using tool::UsageError;

constexpr int kRounds = 3, kFinalRounds = 9;
constexpr double kSecondsOfMeasurement = 1.5e-3;
constexpr double kHopeless = 1.25;        // so much slower than the best of one problem is not tried on the others
constexpr double kLeastGain = 1.01;       // below, the planner's rules stand: a row is a promise
constexpr double kMostDifference = 0.02;  // of o, against the planner's own schedule, of weights that sum to 1 over normal values

struct Candidate {
  Fields fields;  // empty: the planner's own schedule
  std::string kernel;
  std::vector<std::unique_ptr<Attention>> plans;  // of each problem
  std::vector<double> seconds;
  std::string refusal;

  // Geometric mean over the problems.
  double mean_seconds() const {
    double sum = 0;
    for (const double one : seconds) sum += std::log(one);
    return std::exp(sum / static_cast<double>(seconds.size()));
  }
};

class Tuner {
 public:
  Tuner(const TuneOptions& options, int device) : options_(options), gpu_(device), memory_(&gpu_) {}

  // The row of a class.
  std::string tune(const std::string& class_text, const std::vector<TuneProblem>& problems) {
    problems_ = &problems;
    args_.clear();
    for (const TuneProblem& problem : problems) args_.push_back(memory_.args_of(problem.desc));
    std::vector<Candidate> rules(1);
    rules[0].kernel = options_.kernel;
    measure(&rules);
    if (!rules[0].refusal.empty()) return "// " + class_text + ": not served: " + rules[0].refusal + "\n";
    Candidate best = std::move(rules[0]);
    size_t tried = 0;
    for (const Step& step : schedule_steps(options_.kernel)) {
      std::vector<Candidate> candidates = candidates_of(step, best.fields);
      measure(&candidates);
      for (Candidate& candidate : candidates) {
        tried += candidate.seconds.empty() ? 0 : 1;
        if (!candidate.refusal.empty()) continue;
        if (candidate.mean_seconds() < best.mean_seconds()) best = std::move(candidate);
      }
    }
    return row_text(class_text, run_final(best), tried);
  }

 private:
  std::vector<Candidate> candidates_of(const Step& step, const Fields& base) const {
    std::vector<Candidate> candidates;
    for (const Fields& fields : step) {
      Candidate candidate;
      candidate.fields = base;
      for (const auto& [name, value] : fields) candidate.fields[name] = value;
      candidate.kernel = forced_kernel(options_.kernel, candidate.fields);
      fa_attention_desc desc = problems_->front().desc;
      desc.kernel = candidate.kernel.c_str();
      if (fa_supports(&desc) == FA_STATUS_OK) candidates.push_back(std::move(candidate));
    }
    return candidates;
  }

  // Kernels are compiled by as many threads as there are processors.
  void compile(const std::vector<Candidate>& candidates) const {
    std::atomic<size_t> next{0};
    std::vector<std::thread> threads;
    const size_t count = std::min<size_t>(candidates.size(), std::max(1u, std::thread::hardware_concurrency()));
    for (size_t n = 0; n < count; ++n)
      threads.emplace_back([&] {
        for (size_t at; (at = next++) < candidates.size();) {
          fa_attention_desc desc = problems_->front().desc;
          desc.kernel = candidates[at].kernel.c_str();
          fa_plan* plan = nullptr;
          if (fa_plan_create(&desc, &plan) == FA_STATUS_OK) (void)fa_prepare(plan, gpu_.context());  // a failure shows below
          fa_plan_destroy(plan);
        }
      });
    for (std::thread& thread : threads) thread.join();
  }

  // The best of many looks better than it is, so it meets the rules' schedule once more: that, then the best.
  std::vector<Candidate> run_final(const Candidate& best) {
    std::vector<Candidate> both(best.fields.empty() ? 1 : 2);
    both.front().kernel = options_.kernel;
    both.back().kernel = best.kernel;
    both.back().fields = best.fields;
    measure(&both, kFinalRounds);
    return both;
  }

  void measure(std::vector<Candidate>* candidates, int rounds = kRounds) {
    compile(*candidates);
    for (Candidate& candidate : *candidates) make_plans(&candidate);
    for (size_t n = 0; n < problems_->size(); ++n) measure_problem(n, candidates, rounds);
    for (Candidate& candidate : *candidates) candidate.plans.clear();
  }

  void measure_problem(size_t problem, std::vector<Candidate>* candidates, int rounds) {
    std::vector<Candidate*> racing;
    for (Candidate& candidate : *candidates) {
      check_result(problem, &candidate);
      if (candidate.refusal.empty()) racing.push_back(&candidate);
    }
    if (racing.empty()) return;
    const fa_attention_args& args = args_[problem];
    const double once = time_runs(*racing.front()->plans[problem], args, 1);
    const int runs = std::clamp(static_cast<int>(kSecondsOfMeasurement / once), 1, 100);
    std::vector<std::vector<double>> samples(racing.size());
    for (int round = 0; round < rounds; ++round)
      for (size_t c = 0; c < racing.size(); ++c) samples[c].push_back(time_runs(*racing[c]->plans[problem], args, runs));
    double best = 1e9;
    for (size_t c = 0; c < racing.size(); ++c) {
      std::sort(samples[c].begin(), samples[c].end());
      racing[c]->seconds.push_back(samples[c][samples[c].size() / 2]);
      best = std::min(best, racing[c]->seconds.back());
    }
    if (rounds == kFinalRounds) return;
    for (Candidate* candidate : racing)
      if (candidate->seconds.back() > kHopeless * best) candidate->refusal = "much slower than another";
  }

  void make_plans(Candidate* candidate) {
    try {
      for (const TuneProblem& problem : *problems_) {
        fa_attention_desc desc = problem.desc;
        desc.kernel = candidate->kernel.c_str();
        candidate->plans.push_back(std::make_unique<Attention>(desc, &gpu_));
      }
    } catch (const tool::Failure& failure) {
      candidate->refusal = failure.what();
    }
  }

  // Warms up, too.
  void check_result(size_t problem, Candidate* candidate) {
    if (!candidate->refusal.empty()) return;
    candidate->plans[problem]->run(args_[problem]);
    const std::vector<float> o = memory_.read_o((*problems_)[problem].desc);
    if (candidate->fields.empty()) expected_[problem] = o;
    for (size_t n = 0; n < o.size(); ++n) {
      if (std::fabs(o[n] - expected_[problem][n]) <= kMostDifference) continue;
      candidate->refusal = "computes something else";
      std::fprintf(stderr, "WRONG: %s in %s\n", candidate->kernel.c_str(), (*problems_)[problem].text.c_str());
      return;
    }
  }

  double time_runs(const Attention& plan, const fa_attention_args& args, int runs) const {
    const double begin = tool::seconds_now();
    for (int n = 0; n < runs; ++n) plan.run(args);
    gpu_.wait();
    return (tool::seconds_now() - begin) / runs;
  }

  double mean_rate(double seconds) const {
    double sum = 0;
    for (const TuneProblem& problem : *problems_) sum += std::log(problem.flops);
    return std::exp(sum / static_cast<double>(problems_->size())) / seconds * 1e-12;
  }

  // Every field of the schedule, also those that the search left as they were.
  std::string schedule_text(const Candidate& best) const {
    fa_attention_desc desc = problems_->front().desc;
    desc.kernel = best.kernel.c_str();
    const std::string config = " " + tool::device_field(tool::explain_text(desc), "config") + " ";
    std::string text;
    for (const std::string& name : schedule_fields(options_.kernel)) {
      const size_t at = config.find(" " + name + "=") + name.size() + 2;
      text += ", ." + name + " = " + config.substr(at, config.find(' ', at) - at);
    }
    return text;
  }

  std::string row_text(const std::string& class_text, const std::vector<Candidate>& final, size_t tried) const {
    const double rules = mean_rate(final.front().mean_seconds()), best = mean_rate(final.back().mean_seconds());
    std::ostringstream text;
    text.precision(4);
    if (best < rules * kLeastGain)
      text << "// " << class_text << ": the rules' " << rules << " TFLOP/s stand, best of others " << best;
    else
      text << "FA_TUNED(" << class_text << schedule_text(final.back()) << ")  // " << best << " TFLOP/s, rules " << rules;
    text << "; " << problems_->size() << " problems, " << tried << " schedules\n";
    return text.str();
  }

  const TuneOptions& options_;
  tool::Gpu gpu_;
  TuneMemory memory_;
  const std::vector<TuneProblem>* problems_ = nullptr;
  std::vector<fa_attention_args> args_;
  std::map<size_t, std::vector<float>> expected_;
};

std::string head_text(int device, const std::string& kernel) {
  const std::string text = tool::device_text(FA_DEVICE_CUDA, device);
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::tm parts;
  std::strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&now, &parts));
  return "// " + kernel + " on " + tool::device_field(text, "model") + ", driver of " + tool::device_field(text, "driver") + ", " +
         date + ".\n";
}

// Those whose tensors are moved as they lie and whose keys are not split: for others the planner looks up no row.
std::vector<TuneProblem> keep_tunable(const std::vector<TuneProblem>& problems, const std::string& kernel) {
  std::vector<TuneProblem> kept;
  for (const TuneProblem& problem : problems) {
    fa_attention_desc desc = problem.desc;
    desc.kernel = kernel.c_str();
    const std::string config = tool::device_field(tool::explain_text(desc), "config");
    const auto has = [&](const char* field) { return config.find(field) != std::string::npos; };
    if (!config.empty() && !has(" has_splits=1") && !has(" gathers_q=1") && !has(" gathers_k=1")) kept.push_back(problem);
  }
  return kept;
}

void check_options(const TuneOptions& options) {
  if (schedule_steps(options.kernel).empty())
    throw UsageError("--kernel is '" + options.kernel + "' but --tune knows schedules of sm90_fwd and sm80_fwd");
  for (const int64_t d : options.dims)
    if (d < 1 || d > 256) throw UsageError("--dim is " + std::to_string(d) + " but must be from 1 to 256");
  if (!(options.most_seconds > 0)) throw UsageError("--most-seconds must be above 0");
}

}  // namespace

void run_tune(const TuneOptions& options) {
  check_options(options);
  tool::RunOptions run;
  run.device = options.device;
  fa_attention_desc where = tool::new_desc();
  tool::apply_options(run, &where);
  if (where.device_type != FA_DEVICE_CUDA) throw UsageError("--device is '" + options.device + "' but --tune is for GPUs");
  const double begin = tool::seconds_now();
  std::string table = head_text(where.device_index, options.kernel);
  Tuner tuner(options, where.device_index);
  size_t done = 0, chosen = 0;
  for (const auto& [class_text, drawn] : draw_problems(options.dims, 1)) {
    if (class_text.empty() || class_text.find(options.filter) == std::string::npos) continue;
    const std::vector<TuneProblem> problems = keep_tunable(drawn, options.kernel);
    if (problems.empty()) continue;
    ++chosen;
    if (tool::seconds_now() - begin > options.most_seconds) continue;
    const std::string row = tuner.tune(class_text, problems);
    std::fprintf(stderr, "%s", row.c_str());
    table += row;
    ++done;
  }
  if (chosen == 0) throw UsageError("--filter is '" + options.filter + "' but no class of problems has that in its text");
  if (done < chosen)
    table += "// Not tuned in time: " + std::to_string(chosen - done) + " of " + std::to_string(chosen) + " classes.\n";
  if (options.out.empty())
    std::printf("%s", table.c_str());
  else
    tool::write_text(options.out, table);
}

}  // namespace flash_attn::bench
