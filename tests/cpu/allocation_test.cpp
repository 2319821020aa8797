// No allocation in a run after prepare. This program replaces malloc and its relatives, and mmap, for the whole process, the shared
// library included, and counts the calls while a run is in progress, on every thread.
#include "tests/support/check.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

namespace {

std::atomic<bool> is_counting = false;
std::atomic<int64_t> allocations = 0;

void note_allocation() {
  if (is_counting.load(std::memory_order_relaxed)) ++allocations;
}

}  // namespace

// glibc's own entry points, under the names that it keeps for programs that replace malloc.
extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* memory, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void* memory);

void* malloc(size_t bytes) {
  note_allocation();
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  note_allocation();
  return __libc_calloc(count, bytes);
}
void* realloc(void* memory, size_t bytes) {
  note_allocation();
  return __libc_realloc(memory, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
  note_allocation();
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }
int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  *memory = memalign(alignment, bytes);
  return *memory == nullptr ? ENOMEM : 0;
}
void free(void* memory) { __libc_free(memory); }
void* mmap(void* address, size_t bytes, int protection, int flags, int file, off_t offset) {
  using Mmap = void* (*)(void*, size_t, int, int, int, off_t);
  static const auto next = reinterpret_cast<Mmap>(dlsym(RTLD_NEXT, "mmap"));
  note_allocation();
  return next(address, bytes, protection, flags, file, offset);
}
}

namespace flash_attn::test {
namespace {

int64_t count_during_run(const fa_plan* plan, const fa_attention_args* args, const fa_workspace* workspace, fa_status* status) {
  allocations = 0;
  is_counting = true;
  *status = fa_run(plan, args, workspace, nullptr, 0);
  is_counting = false;
  return allocations;
}

TEST(Allocation, TheHookSeesTheLibrary) {
  TestProblem problem({.name = "hook", .s_q = 2, .s_k = 8}, FA_DTYPE_F32, 1);
  allocations = 0;
  is_counting = true;
  fa_plan* plan = nullptr;
  const fa_status status = fa_plan_create(&problem.desc(), &plan);
  is_counting = false;
  fa_plan_destroy(plan);
  EXPECT_EQ(status, FA_STATUS_OK);
  EXPECT_GT(allocations.load(), 0) << "planning allocates a plan; a hook that misses it proves nothing";
}

TEST(Allocation, NoneInRunAfterPrepare) {
  for (const int threads : {1, 3}) {
    fa_set_num_threads(threads);
    for (const CaseSpec& spec : all_cases()) {
      if (!(spec.labels & kTest)) continue;
      for (const fa_dtype dtype : dtype_list(spec.dtypes)) {
        TestProblem problem(spec, dtype, 1);
        const PlanHandle plan(problem.desc(), {});
        ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
        PlannedWorkspace workspace(plan.get());
        ASSERT_EQ(fa_prepare(plan.get(), nullptr), FA_STATUS_OK) << fa_last_error();
        fa_status status = FA_STATUS_OK;
        const int64_t count = count_during_run(plan.get(), &problem.args(), workspace.get(), &status);
        ASSERT_EQ(status, FA_STATUS_OK) << fa_last_error();
        EXPECT_EQ(count, 0) << problem.text() << " threads " << threads;
      }
    }
  }
  fa_set_num_threads(0);
}

}  // namespace
}  // namespace flash_attn::test
