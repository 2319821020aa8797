// See emulated_block.h. Fibers switch by hand-written code: system calls, as of swapcontext, would take most of the time.
#include "emulated_block.h"

uint3 threadIdx, blockIdx, gridDim;

namespace flash_attn::cuda {
alignas(1024) unsigned char shared_memory[emulated::kSharedBytes];
}

extern "C" void emulated_switch(void** save, void* load);
asm(".text\n"
    ".type emulated_switch, @function\n"
    "emulated_switch:\n"
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\n"
    "mov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\n"
    "ret\n");

namespace emulated {
namespace {

constexpr unsigned kMostThreads = 1024;
constexpr size_t kStackBytes = 256 << 10;
constexpr long kMostSwitches = 50'000'000;  // without progress: a deadlock

struct Warp {
  unsigned arrived = 0, round = 0;
  uint64_t slots[32][8];
};

Thread threads[kMostThreads];
Warp warps[kMostThreads / 32];
unsigned thread_count, current, running;
unsigned block_arrived, block_round;
struct Named {
  unsigned arrived = 0, round = 0;
};
Named groups[kMostThreads / 128], named[16];
std::vector<std::function<void()>> delayed;
long switches;
void* outside;
char* stacks;
void (*entry)(const void*);
const void* argument;

void switch_to(unsigned next) {
  if (++switches > kMostSwitches) fail("threads of a block wait for each other for ever, block", blockIdx.x);
  if (next == current) return;
  const unsigned last = current;
  current = next;
  threadIdx = {next, 0, 0};
  emulated_switch(&threads[last].stack_pointer, threads[next].stack_pointer);
}

// The next unfinished thread of [first, first + count).
void yield(unsigned first, unsigned count) {
  unsigned next = current;
  do next = first + (next - first + 1) % count;
  while (threads[next].is_done && next != current);
  switch_to(next);
}

void run_thread() {
  entry(argument);
  threads[current].is_done = true;
  void* nowhere = nullptr;
  if (--running == 0) emulated_switch(&nowhere, outside);
  for (;;) yield(0, thread_count);
}

}  // namespace

Thread& this_thread() { return threads[current]; }
unsigned this_lane() { return current % 32; }
void* lane_slot(unsigned lane) { return warps[current / 32].slots[lane]; }

void sync_warp() {
  Warp& warp = warps[current / 32];
  const unsigned round = warp.round;
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    ++warp.round;
  }
  // Mostly among the warp's own; but one of them may wait for another warp.
  for (unsigned spins = 1; warp.round == round; ++spins) {
    if (spins % 8 != 0)
      yield(current / 32 * 32, 32);
    else
      yield(0, thread_count);
  }
  switches = 0;
}

void sync_block() {
  const unsigned round = block_round;
  if (++block_arrived == thread_count) {
    block_arrived = 0;
    ++block_round;
  }
  while (block_round == round) yield(0, thread_count);
  switches = 0;
}

void arrive_and_wait(Named& barrier, unsigned count, bool waits) {
  const unsigned round = barrier.round;
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    ++barrier.round;
  }
  while (waits && barrier.round == round) {
    run_delayed();
    yield(0, thread_count);
  }
  switches = 0;
}
void sync_group() { arrive_and_wait(groups[current / 128], 128, true); }
void named_barrier(int barrier, int count, bool waits) {
  if (barrier < 1 || barrier > 15) fail("no such named barrier", static_cast<unsigned long long>(barrier));
  arrive_and_wait(named[barrier], static_cast<unsigned>(count), waits);
}
void yield_block() { yield(0, thread_count); }
void note_progress() { switches = 0; }

void delay(std::function<void()> work) { delayed.push_back(std::move(work)); }
void run_delayed() {
  if (delayed.empty()) return;
  const std::function<void()> work = std::move(delayed.front());
  delayed.erase(delayed.begin());
  work();
}

void fail(const char* what, unsigned long long value) {
  std::fprintf(stderr, "emulated kernel: %s %llu (block %u, thread %u)\n", what, value, blockIdx.x, current);
  std::abort();
}

void run_block(unsigned count, void (*kernel)(const void*), const void* params) {
  if (stacks == nullptr) stacks = static_cast<char*>(std::aligned_alloc(64, kStackBytes * kMostThreads));
  thread_count = running = count;
  entry = kernel;
  argument = params;
  switches = 0;
  block_arrived = 0;
  for (Warp& warp : warps) warp = Warp();
  for (Named& barrier : groups) barrier = Named();
  for (Named& barrier : named) barrier = Named();
  delayed.clear();
  std::memset(flash_attn::cuda::shared_memory, 0xFF, kSharedBytes);
  for (unsigned n = 0; n < count; ++n) {
    threads[n] = Thread();
    // As if run_thread had been called: six saved registers, the address to return to, and an aligned frame.
    void** top = reinterpret_cast<void**>(stacks + (n + 1) * kStackBytes - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(run_thread);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    threads[n].stack_pointer = top;
  }
  current = 0;
  threadIdx = {0, 0, 0};
  emulated_switch(&outside, threads[0].stack_pointer);
  for (unsigned n = 0; n < count; ++n) {
    if (!threads[n].stores.empty()) fail("a bulk store was not waited for by thread", n);
    if (!threads[n].products.empty()) fail("a product was not waited for by thread", n);
  }
}

}  // namespace emulated
