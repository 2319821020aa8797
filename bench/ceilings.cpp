// Runs the loops of ceilings_loops.h on all threads at once and keeps the best of several short rounds: a ceiling is what the
// machine reaches when nothing disturbs it.
#include "ceilings.h"

#include "ceilings_loops.h"

#include <time.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>

namespace flash_attn::bench {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Work a second over all threads: every thread calls work(thread) once, all starting together; the slowest counts.
double rate_of(int threads, const std::function<double(int)>& work) {
  std::vector<double> done(static_cast<size_t>(threads)), begin(done), end(done);
  std::barrier start(threads);
  const auto body = [&](int thread) {
    const auto i = static_cast<size_t>(thread);
    start.arrive_and_wait();
    begin[i] = now();
    done[i] = work(thread);
    end[i] = now();
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(body, thread);
  body(0);
  for (std::thread& other : others) other.join();
  double total = 0;
  for (const double part : done) total += part;
  return total / (*std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end()));
}

// The same by each thread's own processor time: arithmetic is not slower for another program's having used the processor.
double processor_rate_of(int threads, const std::function<double(int)>& work) {
  std::vector<double> rates(static_cast<size_t>(threads));
  rate_of(threads, [&](int thread) {
    const double begin = processor_seconds();
    const double done = work(thread);
    rates[static_cast<size_t>(thread)] = done / (processor_seconds() - begin);
    return done;
  });
  double total = 0;
  for (const double rate : rates) total += rate;
  return total;
}

template <typename Rate>
double best_of(const Rate& rate) {
  double best = 0;
  for (int round = 0; round < 8; ++round) best = std::max(best, rate());
  return best;
}

// A loop of about 30 milliseconds.
double arithmetic_rate(int threads, double (*loop)(int64_t)) {
  int64_t rounds = 1000;
  for (double elapsed = 0; elapsed < 0.015; rounds *= 2) {
    const double begin = now();
    loop(rounds);
    elapsed = now() - begin;
  }
  return best_of([&] { return processor_rate_of(threads, [&](int) { return loop(rounds); }); });
}

typedef uint64_t Wide __attribute__((vector_size(64)));

double read_all(const Wide* data, size_t count) {
  Wide sum[4] = {};
  for (size_t i = 0; i + 4 <= count; i += 4) {
    for (size_t j = 0; j < 4; ++j) sum[j] += data[i + j];
    __builtin_prefetch(data + i + 32);
  }
  const Wide total = sum[0] + sum[1] + sum[2] + sum[3];
  uint64_t kept = total[0] + total[7];
  __asm__ volatile("" : "+r"(kept));
  return static_cast<double>(count * sizeof(Wide));
}

// Every thread reads its own part of a buffer that no cache holds.
double read_rate(int threads, int64_t cache_bytes) {
  const int64_t total = std::clamp<int64_t>(4 * cache_bytes, 256 << 20, 2048LL << 20);
  const size_t count = static_cast<size_t>(total) / sizeof(Wide) / static_cast<size_t>(threads);
  std::vector<std::unique_ptr<Wide[]>> parts(static_cast<size_t>(threads));
  rate_of(threads, [&](int thread) {  // touched by the thread that will read it
    auto& part = parts[static_cast<size_t>(thread)];
    part = std::make_unique<Wide[]>(count);
    std::fill_n(reinterpret_cast<uint64_t*>(part.get()), count * 8, uint64_t{1});
    return 1.0;
  });
  return best_of(
      [&] { return rate_of(threads, [&](int thread) { return read_all(parts[static_cast<size_t>(thread)].get(), count); }); });
}

bool has(const std::vector<std::string>& isas, const char* name) { return std::find(isas.begin(), isas.end(), name) != isas.end(); }

}  // namespace

Ceilings measure_ceilings(const std::vector<std::string>& isas, int threads, int64_t cache_bytes) {
  Ceilings ceilings;
  ceilings.threads = threads;
  double (*fma_loop)(int64_t) = fma_loop_portable;
#if defined(__x86_64__)
  if (has(isas, "avx2")) fma_loop = fma_loop_avx2;
  if (has(isas, "avx512")) fma_loop = fma_loop_avx512;
  if (has(isas, "avx512_bf16")) ceilings.dot_bf16 = arithmetic_rate(threads, dot_loop_avx512);
  if (has(isas, "amx_bf16")) ceilings.tile_bf16 = arithmetic_rate(threads, tile_loop_amx);
#elif defined(__aarch64__)
  if (has(isas, "neon")) fma_loop = fma_loop_neon;
#endif
  ceilings.fma_f32 = arithmetic_rate(threads, fma_loop);
  ceilings.read_bandwidth = read_rate(threads, cache_bytes);
  return ceilings;
}

double compute_ceiling(const Ceilings& ceilings, const std::string& dtype, const std::string& isa) {
  if (dtype == "bf16" && isa == "amx_bf16" && ceilings.tile_bf16 > 0) return ceilings.tile_bf16;
  if (dtype == "bf16" && (isa == "avx512_bf16" || isa == "amx_bf16") && ceilings.dot_bf16 > 0) return ceilings.dot_bf16;
  return ceilings.fma_f32;
}

}  // namespace flash_attn::bench
