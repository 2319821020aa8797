// flash-attn-host-time: what calls of the library on a GPU cost the thread that makes them, beside bare launches of empty kernels
// with the same shapes and parameter bytes. Rounds are interleaved; calls only queue work, in groups too short to fill the queue.
// Sees the library through its C ABI only.
#include "bench/host_driver.h"
#include "flash_attn/flash_attn.h"
#include "tools/flash-attn/engine.h"
#include "tools/flash-attn/errors.h"
#include "tools/flash-attn/gpu.h"
#include "tools/flash-attn/timing.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

namespace flash_attn::bench {
namespace {

constexpr int kRounds = 300, kCallsOfRound = 50;

struct HostCase {
  const char* name;
  int64_t b, s_q, s_k, h_q, h_k, d;
  fa_mask_kind mask;
  bool is_packed;
  int64_t page_size;  // 0: contiguous
};

constexpr HostCase kCases[] = {
    {"prefill 512, d 64, full", 1, 512, 512, 16, 16, 64, FA_MASK_FULL, false, 0},
    {"prefill 512, d 128, full", 1, 512, 512, 16, 16, 128, FA_MASK_FULL, false, 0},
    {"prefill 512, d 128, causal", 1, 512, 512, 16, 16, 128, FA_MASK_CAUSAL, false, 0},
    {"prefill 512, d 256, causal", 1, 512, 512, 8, 8, 256, FA_MASK_CAUSAL, false, 0},
    {"4 packed of 128, d 128, causal", 4, 128, 128, 32, 8, 128, FA_MASK_CAUSAL, true, 0},
    {"decode, 1k keys, d 128", 1, 1, 1024, 32, 8, 128, FA_MASK_FULL, false, 0},
    {"decode, batch 64, 256 keys, d 128", 64, 1, 256, 32, 8, 128, FA_MASK_FULL, false, 0},
    {"decode, 1k keys in pages of 16, d 128", 1, 1, 1024, 32, 8, 128, FA_MASK_FULL, false, 16},
};

// The tensors of a case in GPU memory, described and bound.
class HostProblem {
 public:
  HostProblem(const HostCase& given, tool::Gpu* gpu) : case_(given), gpu_(gpu), desc_(tool::new_desc()), args_(tool::new_args()) {
    desc_.device_type = FA_DEVICE_CUDA;
    desc_.mask_kind = given.mask;
    const int64_t rows = given.b * given.s_q;
    if (given.is_packed) {
      desc_.q = desc_.o = tool::dense_tensor(FA_DTYPE_BF16, {rows, given.h_q, given.d});
      desc_.k = desc_.v = tool::dense_tensor(FA_DTYPE_BF16, {given.b * given.s_k, given.h_k, given.d});
      desc_.inputs = FA_INPUT_CU_SEQLENS_Q | FA_INPUT_CU_SEQLENS_K;
      desc_.batch = given.b;
      desc_.max_s_q = given.s_q;
      desc_.max_s_k = given.s_k;
      args_.cu_seqlens_q = offsets(given.s_q);
      args_.cu_seqlens_k = offsets(given.s_k);
    } else {
      desc_.q = desc_.o = tool::dense_tensor(FA_DTYPE_BF16, {given.b, given.s_q, given.h_q, given.d});
      desc_.k = desc_.v = tool::dense_tensor(FA_DTYPE_BF16, {given.b, given.s_k, given.h_k, given.d});
    }
    if (given.page_size > 0) describe_pages();
    args_.q = random_numbers(rows * given.h_q * given.d);
    args_.k = random_numbers(given.b * given.s_k * given.h_k * given.d);
    args_.v = random_numbers(given.b * given.s_k * given.h_k * given.d);
    args_.o = gpu->allocate(static_cast<size_t>(rows * given.h_q * given.d) * 2);
  }

  const fa_attention_desc& desc() const { return desc_; }
  const fa_attention_args& args() const { return args_; }

 private:
  void describe_pages() {
    const int64_t pages = case_.b * case_.s_k / case_.page_size;
    desc_.kv_layout = FA_KV_PAGED;
    desc_.k = desc_.v = tool::dense_tensor(FA_DTYPE_BF16, {pages, case_.page_size, case_.h_k, case_.d});
    desc_.block_table = tool::dense_tensor(FA_DTYPE_I32, {case_.b, pages / case_.b});
    desc_.inputs |= FA_INPUT_SEQUSED_K;
    std::vector<int32_t> table(static_cast<size_t>(pages));
    std::iota(table.rbegin(), table.rend(), 0);
    args_.block_table = copied(table);
    args_.seqused_k = copied(std::vector<int32_t>(static_cast<size_t>(case_.b), static_cast<int32_t>(case_.s_k)));
  }

  template <class T>
  T* copied(const std::vector<T>& values) {
    return static_cast<T*>(gpu_->copy_in(values.data(), values.size() * sizeof(T)));
  }

  const int32_t* offsets(int64_t length) {
    std::vector<int32_t> values;
    for (int64_t n = 0; n <= case_.b; ++n) values.push_back(static_cast<int32_t>(n * length));
    return copied(values);
  }

  // bf16 of either sign with magnitudes from 0.25 to 2.
  const void* random_numbers(int64_t count) {
    std::vector<uint16_t> values(static_cast<size_t>(count));
    for (uint16_t& value : values) {
      random_ = random_ * 6364136223846793005u + 1442695040888963407u;
      const auto bits = static_cast<uint32_t>(random_ >> 33);
      value = static_cast<uint16_t>((bits & 0x807f) | ((125 + (bits >> 8) % 3) << 7));
    }
    return copied(values);
  }

  HostCase case_;
  tool::Gpu* gpu_;
  fa_attention_desc desc_;
  fa_attention_args args_;
  uint64_t random_ = 1;
};

struct HostTimes {
  std::vector<Launch> launches;
  std::string kernel;
  double bare_seconds = 0, run_seconds = 0, plan_run_seconds = 0;
};

double median(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

template <class Call>
double seconds_of(const HostDriver& driver, const Call& call) {
  driver.synchronize();
  const double begin = tool::seconds_now();
  for (int n = 0; n < kCallsOfRound; ++n) call();
  return (tool::seconds_now() - begin) / kCallsOfRound;
}

class Plan {
 public:
  explicit Plan(const fa_attention_desc& desc) { tool::check_status(fa_plan_create(&desc, &plan_)); }
  ~Plan() { fa_plan_destroy(plan_); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  const fa_plan* get() const { return plan_; }

 private:
  fa_plan* plan_ = nullptr;
};

HostTimes measure(const HostCase& given, const HostDriver& driver, tool::Gpu* gpu) {
  const HostProblem problem(given, gpu);
  const Plan plan(problem.desc());
  tool::check_status(fa_prepare(plan.get(), nullptr));
  fa_workspace workspace;
  tool::check_status(fa_workspace_init(&workspace));
  tool::check_status(fa_plan_workspace(plan.get(), &workspace.scratch_bytes, &workspace.state_bytes));
  workspace.scratch = gpu->allocate(workspace.scratch_bytes);
  workspace.state = gpu->allocate(workspace.state_bytes);
  tool::check_status(fa_state_init(plan.get(), workspace.state, workspace.state_bytes, driver.stream()));
  const auto run = [&](const fa_plan* planned) {
    tool::check_status(fa_run(planned, &problem.args(), &workspace, driver.stream(), FA_RUN_NO_COMPILE));
  };
  // A plan of one call only has not been prepared: its kernel is in the cache.
  const auto plan_and_run = [&] {
    const Plan fresh(problem.desc());
    tool::check_status(fa_run(fresh.get(), &problem.args(), &workspace, driver.stream(), 0));
  };

  HostTimes times;
  times.kernel = fa_plan_kernel(plan.get());
  times.launches = driver.launches_of([&] { run(plan.get()); });
  const auto empty = driver.empty_kernels(times.launches);
  std::vector<double> bare, running, planning;
  for (int n = 0; n < kRounds; ++n) {
    bare.push_back(seconds_of(driver, [&] { empty->launch(); }));
    running.push_back(seconds_of(driver, [&] { run(plan.get()); }));
    planning.push_back(seconds_of(driver, plan_and_run));
  }
  driver.synchronize();
  times.bare_seconds = median(bare);
  times.run_seconds = median(running);
  times.plan_run_seconds = median(planning);
  return times;
}

std::string parameter_text(const std::vector<Launch>& launches, const char* separator) {
  std::string text;
  for (const Launch& launch : launches) text += (text.empty() ? "" : separator) + std::to_string(launch.parameter_bytes);
  return text;
}

void print_times(const HostCase& given, const HostTimes& times, bool is_json) {
  const auto format = is_json ? "{\"name\": \"%s\", \"kernel\": \"%s\", \"launches\": %zu, \"parameter_bytes\": [%s], "
                                "\"bare_us\": %.3f, \"run_us\": %.3f, \"plan_run_us\": %.3f}\n"
                              : "%-38s %-24s %zu launches (%s bytes)  bare %6.2f us  run %6.2f us  plan and run %6.2f us\n";
  std::printf(format, given.name, times.kernel.c_str(), times.launches.size(),
              parameter_text(times.launches, is_json ? ", " : "+").c_str(), times.bare_seconds * 1e6, times.run_seconds * 1e6,
              times.plan_run_seconds * 1e6);
}

int run_main(int argc, char** argv) {
  const bool is_json = argc == 2 && std::strcmp(argv[1], "--json") == 0;
  if (argc > 1 && !is_json) {
    std::fprintf(stderr, "usage: flash-attn-host-time [--json]\n");
    return 2;
  }
  try {
    tool::Gpu gpu(0);
    const HostDriver driver;
    for (const HostCase& given : kCases) {
      print_times(given, measure(given, driver, &gpu), is_json);
      std::fflush(stdout);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "flash-attn-host-time: %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace flash_attn::bench

int main(int argc, char** argv) { return flash_attn::bench::run_main(argc, argv); }
