// The pool: workers spin for a short while after a job, so that back-to-back runs start within a microsecond, then sleep. One job at
// a time; a second caller does its work on its own thread rather than wait. After fork() the child starts a pool of its own.

#include "cpu/thread_pool.h"

#include "cpu/device.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace flash_attn::cpu {
namespace {

constexpr int kMaxThreads = 1024;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

class Pool {
 public:
  // Returns false if the pool is in use by another caller.
  bool run(int count, fa_task_fn task, void* context) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    grow(count - 1);
    const int helpers = count - 1 < static_cast<int>(threads_.size()) ? count - 1 : static_cast<int>(threads_.size());
    task_ = task;
    context_ = context;
    pending_.store(helpers, std::memory_order_relaxed);
    announce(helpers);
    task(context, 0);
    for (int i = helpers + 1; i < count; ++i) task(context, i);
    for (int spins = 0; pending_.load(std::memory_order_acquire) > 0; ++spins) {
      relax();
      if (spins > 10000) std::this_thread::yield();
    }
    busy_.store(false, std::memory_order_release);
    return true;
  }

  void start(int num_threads) {
    if (busy_.exchange(true, std::memory_order_acquire)) return;
    grow(num_threads - 1);
    busy_.store(false, std::memory_order_release);
  }

  void stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_.store(true);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  // The low bits of the job word say how many workers take part, so that the others need not look at the job.
  static constexpr uint64_t kCountBits = 16, kCountMask = (1u << kCountBits) - 1;

  void grow(int helpers) {
    if (helpers > kMaxThreads) helpers = kMaxThreads;
    while (static_cast<int>(threads_.size()) < helpers) {
      try {
        const int index = static_cast<int>(threads_.size());
        const uint64_t seen = job_.load(std::memory_order_relaxed);
        threads_.emplace_back([this, index, seen] { work(index, seen); });
      } catch (const std::system_error&) {
        return;  // fewer threads than asked for: the caller's thread does the rest
      } catch (const std::bad_alloc&) {
        return;
      }
    }
  }

  void announce(int helpers) {
    const uint64_t next = ((job_.load(std::memory_order_relaxed) >> kCountBits) + 1) << kCountBits;
    job_.store(next | static_cast<uint64_t>(helpers), std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      const std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
  }

  void work(int index, uint64_t seen) {
    while (true) {
      const uint64_t job = next_job(seen);
      if (stopping_.load(std::memory_order_relaxed)) return;
      seen = job;
      if (index >= static_cast<int>(job & kCountMask)) continue;
      task_(context_, index + 1);
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  uint64_t next_job(uint64_t seen) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point give_up = Clock::now() + std::chrono::microseconds(60);
    do {
      for (int i = 0; i < 64; ++i) {
        const uint64_t job = job_.load(std::memory_order_acquire);
        if (job != seen || stopping_.load(std::memory_order_relaxed)) return job;
        relax();
      }
    } while (Clock::now() < give_up);
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return job_.load(std::memory_order_seq_cst) != seen || stopping_.load(); });
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    return job_.load(std::memory_order_acquire);
  }

  std::atomic<bool> busy_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> job_{0};
  std::atomic<int> pending_{0};
  std::atomic<int> sleepers_{0};
  fa_task_fn task_ = nullptr;
  void* context_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
};

// Set by the caller, read by every run.
struct Settings {
  std::atomic<int> num_threads{0};
  std::mutex mutex;  // of the three below
  fa_parallel_for_fn parallel_for = nullptr;
  void* user = nullptr;
  int concurrency = 0;
  std::atomic<bool> has_hook{false};
};

Settings& settings() {
  static Settings* const kept = new Settings;  // never destroyed: runs may outlive static destruction
  return *kept;
}

std::atomic<Pool*> g_pool{nullptr};

Pool* pool() {
  Pool* current = g_pool.load(std::memory_order_acquire);
  if (current) return current;
  static std::once_flag once;
  // The child of a fork has none of the parent's threads; it forgets the old pool, whose memory stays behind.
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { g_pool.store(nullptr, std::memory_order_relaxed); }); });
  Pool* fresh = new (std::nothrow) Pool;
  if (!fresh) return nullptr;
  if (g_pool.compare_exchange_strong(current, fresh)) return fresh;
  delete fresh;
  return current;
}

// Join the workers before the library is unloaded or the process ends.
__attribute__((destructor)) void stop_pool() {
  if (Pool* current = g_pool.exchange(nullptr)) {
    current->stop();
    delete current;
  }
}

}  // namespace

int default_num_threads() {
  Settings& s = settings();
  const int chosen = s.num_threads.load(std::memory_order_relaxed);
  if (chosen > 0) return chosen;
  if (s.has_hook.load(std::memory_order_acquire)) {
    const std::lock_guard<std::mutex> lock(s.mutex);
    if (s.parallel_for) return s.concurrency;
  }
  return cpu_info().processors;
}

Status set_num_threads(int num_threads) {
  if (num_threads < 0 || num_threads > kMaxThreads)
    return invalid("num_threads is %d but must be 0 (all processors) to %d", num_threads, kMaxThreads);
  settings().num_threads.store(num_threads);
  return {};
}

Status set_parallel_for(fa_parallel_for_fn parallel_for, void* user, int concurrency) {
  if (parallel_for && (concurrency < 1 || concurrency > kMaxThreads))
    return invalid("concurrency is %d but must be 1 to %d", concurrency, kMaxThreads);
  Settings& s = settings();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.parallel_for = parallel_for;
  s.user = user;
  s.concurrency = parallel_for ? concurrency : 0;
  s.has_hook.store(parallel_for != nullptr, std::memory_order_release);
  return {};
}

void parallel_for(int count, fa_task_fn task, void* context) {
  if (count <= 1) {
    if (count == 1) task(context, 0);
    return;
  }
  Settings& s = settings();
  if (s.has_hook.load(std::memory_order_acquire)) {
    fa_parallel_for_fn hook = nullptr;
    void* user = nullptr;
    {
      const std::lock_guard<std::mutex> lock(s.mutex);
      hook = s.parallel_for;
      user = s.user;
    }
    if (hook) return hook(user, count, task, context);
  }
  Pool* current = pool();
  if (current && current->run(count, task, context)) return;
  for (int i = 0; i < count; ++i) task(context, i);
}

void start_pool(int num_threads) {
  if (settings().has_hook.load(std::memory_order_acquire)) return;
  if (Pool* current = pool()) current->start(num_threads);
}

}  // namespace flash_attn::cpu
