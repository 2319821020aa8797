// The pool: workers spin for a short while after a job, so that back-to-back runs start within a microsecond, then sleep on a
// futex. A job is an offer: the caller works at once, workers that are awake in time join, and nobody waits for one that the system
// has not scheduled. One job at a time; a second caller does its work on its own thread rather than wait. After fork() the child
// starts a pool of its own.

#include "cpu/thread_pool.h"

#include "core/settings_mutex.h"
#include "cpu/device.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
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

// Where all processors are busy, the system wakes a worker on the caller's, and may leave it there for tens of milliseconds: one
// that finds itself there asks for another.
void leave_processor(int processor) {
  if (processor < 0 || sched_getcpu() != processor) return;
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof(all), &all) != 0 || CPU_COUNT(&all) < 2) return;
  cpu_set_t others = all;
  CPU_CLR(processor, &others);
  if (sched_setaffinity(0, sizeof(others), &others) == 0) sched_setaffinity(0, sizeof(all), &all);
}

class Pool {
 public:
  // Returns false if the pool is in use by another caller.
  bool run(int count, fa_task_fn task, void* context) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    if (started_.load(std::memory_order_acquire) < count - 1) grow(count - 1);
    task_ = task;
    context_ = context;
    left_.store(0, std::memory_order_relaxed);
    callers_processor_.store(sched_getcpu(), std::memory_order_relaxed);
    const uint64_t epoch = (offer_.load(std::memory_order_relaxed) >> 32) + 1;
    offer_.store(epoch << 32 | kOpen | static_cast<uint64_t>(count - 1) << kLimitShift, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) ring();
    task(context, 0);
    const uint32_t joined = joined_of(offer_.fetch_and(~kOpen, std::memory_order_acq_rel));
    for (int spins = 0; left_.load(std::memory_order_acquire) < joined; ++spins) {
      relax();
      if (spins > 2000) std::this_thread::yield();
    }
    busy_.store(false, std::memory_order_release);
    return true;
  }

  // Also while a job runs, which the new workers do not join.
  void start(int num_threads) { grow(num_threads - 1); }

  void stop() {
    stopping_.store(true);
    ring();
    const std::lock_guard<std::mutex> lock(growing_);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  bool is_busy() const { return busy_.load(std::memory_order_acquire); }

 private:
  // The offer: epoch (high 32 bits), whether it is still open, how many workers may join, how many have.
  static constexpr uint64_t kOpen = 1ull << 31, kJoinedMask = 0xFFFF;
  static constexpr int kLimitShift = 16;
  static uint32_t joined_of(uint64_t offer) { return static_cast<uint32_t>(offer & kJoinedMask); }
  static uint32_t limit_of(uint64_t offer) { return static_cast<uint32_t>((offer >> kLimitShift) & 0x7FFF); }

  void grow(int helpers) {
    if (helpers > kMaxThreads) helpers = kMaxThreads;
    const std::lock_guard<std::mutex> lock(growing_);
    while (static_cast<int>(threads_.size()) < helpers) {
      try {
        const uint64_t seen = offer_.load(std::memory_order_relaxed) >> 32;
        threads_.emplace_back([this, seen] { work(seen); });
        started_.store(static_cast<int>(threads_.size()), std::memory_order_release);
      } catch (const std::system_error&) {
        return;  // fewer threads than asked for: the caller's thread does the rest
      } catch (const std::bad_alloc&) {
        return;
      }
    }
  }

  // Wake every sleeper. The count changes first, so that one about to sleep does not.
  void ring() {
    bell_.fetch_add(1, std::memory_order_seq_cst);
    syscall(SYS_futex, &bell_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }

  void work(uint64_t seen) {
    while (true) {
      seen = next_epoch(seen);
      if (stopping_.load(std::memory_order_relaxed)) return;
      uint64_t offer = offer_.load(std::memory_order_acquire);
      while ((offer & kOpen) && offer >> 32 == seen && joined_of(offer) < limit_of(offer)) {
        if (!offer_.compare_exchange_weak(offer, offer + 1, std::memory_order_acq_rel)) continue;
        leave_processor(callers_processor_.load(std::memory_order_relaxed));
        task_(context_, static_cast<int64_t>(joined_of(offer)) + 1);
        left_.fetch_add(1, std::memory_order_release);
        break;
      }
    }
  }

  // Spin while an offer is open and a little longer, then sleep.
  uint64_t next_epoch(uint64_t seen) {
    using Clock = std::chrono::steady_clock;
    Clock::time_point idle_since = Clock::now();
    const Clock::time_point patience = idle_since + std::chrono::milliseconds(5);
    for (Clock::time_point now = idle_since; now - idle_since < std::chrono::microseconds(100); now = Clock::now()) {
      uint64_t offer = 0;
      for (int i = 0; i < 64; ++i) {
        offer = offer_.load(std::memory_order_acquire);
        if (offer >> 32 != seen || stopping_.load(std::memory_order_relaxed)) return offer >> 32;
        relax();
      }
      if ((offer & kOpen) && now < patience) idle_since = now;
      // Where there are more threads than processors, whoever has work must not wait for those who have none.
      std::this_thread::yield();
    }
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (true) {
      const uint32_t bell = bell_.load(std::memory_order_seq_cst);
      if (offer_.load(std::memory_order_seq_cst) >> 32 != seen || stopping_.load()) break;
      syscall(SYS_futex, &bell_, FUTEX_WAIT_PRIVATE, bell, nullptr, nullptr, 0);
    }
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    return offer_.load(std::memory_order_acquire) >> 32;
  }

  std::atomic<bool> busy_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> offer_{0};
  std::atomic<uint32_t> left_{0};  // workers that have joined the offer and finished
  std::atomic<int> sleepers_{0};
  fa_task_fn task_ = nullptr;
  void* context_ = nullptr;
  std::atomic<int> callers_processor_{-1};
  std::atomic<uint32_t> bell_{0};
  std::mutex growing_;  // of the threads; never needed in a child, which has a pool of its own
  std::vector<std::thread> threads_;
  std::atomic<int> started_{0};
};

// Set by the caller, read by every run.
struct Settings {
  std::atomic<int> num_threads{0};
  fa_parallel_for_fn parallel_for = nullptr;  // this and the next two under settings_mutex
  void* user = nullptr;
  int concurrency = 0;
  std::atomic<bool> has_hook{false};
};

constinit Settings g_settings;
constinit std::atomic<Pool*> g_pool{nullptr};

// The child of a fork has none of the parent's threads; it forgets the old pool, whose memory stays behind.
__attribute__((constructor)) void forget_pool_in_children() {
  pthread_atfork(nullptr, nullptr, [] { g_pool.store(nullptr, std::memory_order_relaxed); });
}

Pool* pool() {
  Pool* current = g_pool.load(std::memory_order_acquire);
  if (current) return current;
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
    // A thread that is inside a run while the process ends still looks at its pool: then the memory stays.
    if (!current->is_busy()) delete current;
  }
}

}  // namespace

int default_num_threads() {
  Settings& s = g_settings;
  const int chosen = s.num_threads.load(std::memory_order_relaxed);
  if (chosen > 0) return chosen;
  if (s.has_hook.load(std::memory_order_acquire)) {
    const std::lock_guard<std::mutex> lock(settings_mutex());
    if (s.parallel_for) return s.concurrency;
  }
  return cpu_info().processors;
}

Status set_num_threads(int num_threads) {
  if (num_threads < 0 || num_threads > kMaxThreads)
    return invalid("num_threads is %d but must be 0 (all processors) to %d", num_threads, kMaxThreads);
  g_settings.num_threads.store(num_threads);
  return {};
}

Status set_parallel_for(fa_parallel_for_fn parallel_for, void* user, int concurrency) {
  if (parallel_for && (concurrency < 1 || concurrency > kMaxThreads))
    return invalid("concurrency is %d but must be 1 to %d", concurrency, kMaxThreads);
  Settings& s = g_settings;
  const std::lock_guard<std::mutex> lock(settings_mutex());
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
  Settings& s = g_settings;
  if (s.has_hook.load(std::memory_order_acquire)) {
    fa_parallel_for_fn hook = nullptr;
    void* user = nullptr;
    {
      const std::lock_guard<std::mutex> lock(settings_mutex());
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
  if (g_settings.has_hook.load(std::memory_order_acquire)) return;
  if (Pool* current = pool()) current->start(num_threads);
}

}  // namespace flash_attn::cpu
