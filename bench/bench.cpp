// Chooses cases, runs them, hands the results to report.h as they come. The problems are those of the tests; only their size
// differs.
#include "bench/bench.h"

#include "bench/ceilings.h"
#include "bench/report.h"
#include "tests/cases.h"
#include "tests/support/backward_problem.h"
#include "tools/flash-attn/engine.h"
#include "tools/flash-attn/errors.h"
#include "tools/flash-attn/files.h"
#include "tools/flash-attn/timing.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace flash_attn::bench {
namespace {

using tool::Failure;
using tool::UsageError;

std::vector<const test::CaseSpec*> select_cases(const BenchOptions& options) {
  std::vector<const test::CaseSpec*> cases;
  for (const std::vector<test::CaseSpec>* table : {&test::all_cases(), &test::backward_cases()}) {
    for (const test::CaseSpec& spec : *table) {
      if ((spec.labels & test::kBench) != 0 && spec.name.find(options.filter) != std::string::npos) cases.push_back(&spec);
    }
  }
  if (cases.empty()) throw UsageError("--filter is '" + options.filter + "' but no bench case has that in its name (see --list)");
  return cases;
}

void check_options(const BenchOptions& options) {
  for (const std::string& name : options.dtypes) {
    if (tool::dtype_from_name(name) == FA_DTYPE_NONE) throw UsageError("--dtype is '" + name + "' but must be f32, bf16 or f16");
  }
  const auto known = tool::isa_names();
  for (const std::string& name : options.isas) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw UsageError("--isa is '" + name + "' but this machine has only those that `flash-attn info` names");
    }
  }
  for (const int threads : options.threads) {
    if (threads < 1 || threads > 4096) throw UsageError("--threads is " + std::to_string(threads) + " but must be from 1 to 4096");
  }
  if (!(options.seconds > 0 && options.seconds <= 60)) throw UsageError("--seconds must be above 0 and at most 60");
}

// The operating system knows the part of a processor's last cache that this machine has; CPUID may name all of the package's.
int64_t last_cache_bytes(const std::string& device_text) {
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
  int64_t amount = 0;
  char unit = 0;
  if (file >> amount >> unit && amount > 0) return amount << (unit == 'M' ? 20 : unit == 'K' ? 10 : 0);
  return std::atoll(tool::device_field(device_text, "l3_bytes").c_str());
}

Machine read_machine() {
  const std::string text = tool::device_text(FA_DEVICE_CPU, 0);
  const uint32_t version = fa_version();
  Machine machine;
  machine.cpu = tool::device_field(text, "model");
  const auto isas = tool::isa_names();
  machine.isa = isas.empty() ? "" : isas.front();
  machine.library =
      std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
  machine.processors = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  machine.cache_bytes = last_cache_bytes(text);
  return machine;
}

// One line at the bottom of a terminal, rewritten; nothing where stderr is no terminal.
class Progress {
 public:
  explicit Progress(size_t total) : total_(total), is_shown_(isatty(STDERR_FILENO) != 0) {}
  ~Progress() { clear(); }

  void show(const std::string& what) {
    ++done_;
    if (is_shown_) std::fprintf(stderr, "\r\033[K[%zu/%zu] %s", done_, total_, what.c_str());
  }
  void clear() const {
    if (is_shown_) std::fprintf(stderr, "\r\033[K");
  }

 private:
  size_t total_, done_ = 0;
  bool is_shown_;
};

// The share of the nearest ceiling: the one that bounds the time from below.
void judge(const Ceilings& ceilings, int64_t cache_bytes, Measurement* result) {
  const double compute_seconds = result->flops / compute_ceiling(ceilings, result->dtype, result->isa);
  const bool is_out_of_cache = result->bytes > static_cast<double>(cache_bytes);
  const double read_seconds = is_out_of_cache ? result->bytes / ceilings.read_bandwidth : 0;
  result->bound = read_seconds > compute_seconds ? "read" : "compute";
  result->share = std::max(compute_seconds, read_seconds) / result->median_seconds;
}

class Bench {
 public:
  explicit Bench(const BenchOptions& options) : options_(options), machine_(read_machine()) {
    dtypes_ = options.dtypes;
    if (dtypes_.empty()) dtypes_ = {"f32", "bf16", "f16"};
    isas_ = options.isas;
    if (isas_.empty()) isas_ = {machine_.isa};
    threads_ = options.threads;
    if (threads_.empty()) threads_ = {fa_get_num_threads()};
  }

  void run(const std::vector<const test::CaseSpec*>& cases) {
    Progress progress(cases.size() * dtypes_.size());
    for (const int threads : threads_) {
      if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r\033[Kmeasuring the machine's ceilings with %d threads", threads);
      ceilings_.push_back(measure_ceilings(tool::isa_names(), threads, machine_.cache_bytes));
    }
    progress.clear();
    print(options_.is_json ? machine_json(machine_, ceilings_) : machine_text(machine_, ceilings_) + "\n" + table_head());
    for (const test::CaseSpec* spec : cases) {
      for (const std::string& dtype : dtypes_) {
        progress.show(spec->name + " " + dtype);
        run_case(*spec, dtype, progress);
      }
    }
    progress.clear();
    if (!options_.is_json) print(table_summary(results_));
    if (!options_.plot.empty()) {
      tool::write_text(options_.plot, plot_svg(machine_, results_));
      if (!options_.is_json) print("Drawn in " + options_.plot + "\n");
    }
  }

 private:
  static void print(const std::string& text) {
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  }

  void run_case(const test::CaseSpec& spec, const std::string& dtype, const Progress& progress) {
    const fa_dtype type = tool::dtype_from_name(dtype);
    const auto served = test::dtype_list(spec.dtypes);
    if (std::find(served.begin(), served.end(), type) == served.end()) return;
    constexpr auto kEdge = test::GuardedBuffer::Edge::begin;
    if (spec.direction == FA_FORWARD) {
      const test::TestProblem problem(spec, type, 1, kEdge);
      time_problem(spec, type, problem.desc(), problem.args(), progress);
    } else {
      const test::BackwardProblem problem(spec, type, 1, kEdge, test::ForwardBy::library);
      time_problem(spec, type, problem.desc(), problem.args(), progress);
    }
  }

  void time_problem(const test::CaseSpec& spec, fa_dtype type, const fa_attention_desc& problem, const fa_attention_args& args,
                    const Progress& progress) {
    for (const std::string& isa : isas_) {
      for (size_t i = 0; i < threads_.size(); ++i) {
        fa_attention_desc desc = problem;
        desc.isa = isa.c_str();
        desc.num_threads = threads_[i];
        tool::check_status(fa_set_num_threads(threads_[i]));
        const tool::Attention attention(desc);
        const tool::Timing timing = tool::time_call([&] { attention.run(args); }, options_.seconds);
        Measurement result{.name = spec.name,
                           .dtype = tool::dtype_to_name(type),
                           .isa = isa,
                           .kernel = attention.kernel(),
                           .threads = threads_[i],
                           .median_seconds = timing.median,
                           .best_seconds = timing.best,
                           .rounds = timing.rounds,
                           .flops = test::flops(spec),
                           .bytes = test::bytes(spec, type),
                           .share = 0,
                           .bound = ""};
        judge(ceilings_[i], machine_.cache_bytes, &result);
        results_.push_back(result);
        progress.clear();
        print(options_.is_json ? measurement_json(result) : table_line(result));
      }
    }
  }

  const BenchOptions& options_;
  Machine machine_;
  std::vector<std::string> dtypes_, isas_;
  std::vector<int> threads_;
  std::vector<Ceilings> ceilings_;
  std::vector<Measurement> results_;
};

}  // namespace

void run_bench(const BenchOptions& options) {
  check_options(options);
  const auto cases = select_cases(options);
  if (options.is_list) {
    for (const test::CaseSpec* spec : cases) std::printf("%s\n", test::to_text(*spec).c_str());
    return;
  }
  Bench(options).run(cases);
}

}  // namespace flash_attn::bench
