// What planning and running cost the calling thread, without the driver's own time: against the recording driver, rows of the case
// table by name. No test, as times are the machine's; run_test.cpp bounds what does not depend on it. How it is started is in
// docs/notes/2026-11-24-host-time.md.
#include "tests/cuda/device_run.h"
#include "tests/cuda/recording/recording.h"
#include "tests/support/allocation_count.h"
#include "tests/support/backward_problem.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace flash_attn::test {
namespace {

constexpr int kRounds = 9, kCallsOfRound = 4000;
constexpr const char* kCases[] = {"dense_d128",      "causal",     "packed",    "decode_d128_gqa8", "paged_16",
                                  "leftpad_seqused", "num_splits", "softcap",   "dropout",          "bias_0",
                                  "mask_0",          "tree",       "everything"};

// Of this thread, so that others on the machine do not count.
double thread_seconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void require(fa_status status) {
  if (status == FA_STATUS_OK) return;
  std::fprintf(stderr, "cuda_plan_time: %s\n", fa_last_error());
  std::exit(1);
}

// Microseconds of a call: the best round.
template <class Call>
double microseconds(const Call& call) {
  double best = 1;
  for (int round = 0; round < kRounds; ++round) {
    const double begin = thread_seconds();
    for (int n = 0; n < kCallsOfRound; ++n) call();
    best = std::min(best, (thread_seconds() - begin) / kCallsOfRound);
  }
  return 1e6 * best;
}

template <class AnyProblem>
void print_times(const AnyProblem& problem) {
  fa_attention_desc desc = problem.desc();
  desc.device_type = FA_DEVICE_CUDA;
  desc.num_threads = 0;
  const DeviceStream stream;
  const PlanHandle plan(desc, {});
  require(plan.status());
  require(fa_prepare(plan.get(), nullptr));
  const PlannedWorkspace workspace(plan.get());
  const auto run = [&](const fa_plan* planned) { require(fa_run(planned, &problem.args(), workspace.get(), stream.get(), 0)); };
  const auto plan_and = [&](const auto& use) {
    fa_plan* fresh = nullptr;
    require(fa_plan_create(&desc, &fresh));
    use(fresh);
    fa_plan_destroy(fresh);
  };
  const double planning = microseconds([&] { plan_and([](const fa_plan*) {}); });
  const double both = microseconds([&] { plan_and(run); });
  const double running = microseconds([&] { run(plan.get()); });
  start_counting();
  plan_and(run);
  std::printf("%-24s %-22s plan %5.2f us  plan and run %5.2f us  run %5.2f us  %d allocations\n", problem.spec().name.c_str(),
              fa_plan_kernel(plan.get()), planning, both, running, static_cast<int>(stop_counting()));
}

int run_main(int argc, char** argv) {
  if (!Recording().works()) {
    std::fprintf(stderr, "cuda_plan_time: libcuda.so.1 is not the recording driver\n");
    return 1;
  }
  require_gpu();
  const std::vector<const char*> names =
      argc > 1 ? std::vector<const char*>(argv + 1, argv + argc) : std::vector<const char*>(std::begin(kCases), std::end(kCases));
  const auto is_named = [&](const CaseSpec& spec) {
    return std::any_of(names.begin(), names.end(), [&](const char* name) { return spec.name == name; });
  };
  for (const CaseSpec& spec : all_cases())
    if (is_named(spec)) print_times(TestProblem(spec, FA_DTYPE_BF16, 1, GuardedBuffer::Edge::begin));
  for (const CaseSpec& spec : backward_cases())
    if (is_named(spec)) print_times(BackwardProblem(spec, FA_DTYPE_BF16, 1, GuardedBuffer::Edge::begin));
  return 0;
}

}  // namespace
}  // namespace flash_attn::test

int main(int argc, char** argv) { return flash_attn::test::run_main(argc, argv); }
