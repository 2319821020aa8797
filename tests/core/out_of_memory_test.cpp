// Every allocation of every kind of call fails once: the call must return FA_STATUS_OUT_OF_MEMORY with a message, and work again
// after. A program of its own, since it replaces operator new.
#include "tests/core/valid_desc.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace {

thread_local int allocations_left = -1;  // before one fails; negative: none does

bool fails_now() { return allocations_left >= 0 && allocations_left-- == 0; }

}  // namespace

// gcc takes the pair of malloc and operator delete for a mistake where it can see only one of these.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

void* operator new(size_t bytes) {
  void* memory = fails_now() ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return fails_now() ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
}
void* operator new[](size_t bytes) { return operator new(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace flash_attn::test {
namespace {

// Calls until no allocation fails any more, each time on a new thread, which has kept nothing; returns how many failed.
int failures_of(const std::function<fa_status()>& call) {
  for (int n = 0; n < 1000; ++n) {
    bool failed = false;
    std::thread([&] {
      allocations_left = n;
      const fa_status status = call();
      failed = allocations_left < 0;
      allocations_left = -1;
      EXPECT_EQ(status, failed ? FA_STATUS_OUT_OF_MEMORY : FA_STATUS_OK) << "allocation " << n << ": " << fa_last_error();
      EXPECT_EQ(std::string(fa_last_error()).empty(), !failed);
    }).join();
    if (!failed) return n;
  }
  ADD_FAILURE() << "allocations never end";
  return -1;
}

TEST(OutOfMemory, PlanCreate) {
  const fa_attention_desc desc = dense_desc();
  fa_plan* plan = nullptr;
  const int failures = failures_of([&] {
    const fa_status status = fa_plan_create(&desc, &plan);
    EXPECT_EQ(plan == nullptr, status != FA_STATUS_OK);
    return status;
  });
  EXPECT_GE(failures, 2);
  EXPECT_LE(failures, 4);  // a plan is not to become a heap of pieces
  fa_plan_destroy(plan);
}

TEST(OutOfMemory, Explain) {
  const fa_attention_desc desc = dense_desc();
  char text[1000];
  EXPECT_GE(failures_of([&] { return fa_explain(&desc, text, sizeof text, nullptr); }), 3);
}

TEST(OutOfMemory, Attention) {
  const fa_attention_desc desc = dense_desc();
  std::vector<float> q(2 * 3 * 4 * 8), k(2 * 5 * 2 * 8), v(2 * 5 * 2 * 6), o(2 * 3 * 4 * 6), lse(2 * 4 * 3);
  fa_attention_args args;
  fa_attention_args_init(&args);
  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  args.o = o.data();
  args.lse = lse.data();
  EXPECT_GE(failures_of([&] { return fa_attention(&desc, &args, nullptr); }), 3);
  ASSERT_EQ(fa_attention(&desc, &args, nullptr), FA_STATUS_OK) << fa_last_error();
  allocations_left = 0;  // a kept plan needs no memory
  EXPECT_EQ(fa_attention(&desc, &args, nullptr), FA_STATUS_OK) << fa_last_error();
  EXPECT_EQ(allocations_left, 0);
  allocations_left = -1;
}

TEST(OutOfMemory, RefusalKeepsItsStatus) {
  fa_attention_desc desc = dense_desc();
  desc.window_left = -7;
  for (int n = 0; n < 3; ++n) {
    allocations_left = n;
    const fa_status status = fa_validate(&desc);
    allocations_left = -1;
    EXPECT_TRUE(status == FA_STATUS_INVALID_ARGUMENT || status == FA_STATUS_OUT_OF_MEMORY) << status;
    EXPECT_STRNE(fa_last_error(), "");
  }
}

}  // namespace
}  // namespace flash_attn::test
