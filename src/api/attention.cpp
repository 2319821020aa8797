// fa_attention: plan and run in one call. Each thread keeps its last few plans, found again by the bytes of their description, and
// one workspace; both go at the thread's exit.
#include "api/attention.h"

#include "api/guard.h"
#include "api/structs.h"
#include "core/plan.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace flash_attn::api {
namespace {

std::atomic<uint64_t> settings_generation{0};

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

// 64-byte aligned memory that only grows.
struct Memory {
  std::unique_ptr<void, FreeMemory> base;
  size_t bytes = 0;

  // *is_new: the contents are undefined.
  Status reserve(size_t needed, bool* is_new) {
    *is_new = needed > bytes;
    if (!*is_new) return Status();
    base.reset();
    bytes = 0;
    const size_t rounded = (needed + 63) / 64 * 64;
    base.reset(rounded >= needed ? std::aligned_alloc(64, rounded) : nullptr);
    if (base == nullptr) return Status(FA_STATUS_OUT_OF_MEMORY, format_text("no memory for a workspace of %zu bytes", needed));
    bytes = rounded;
    return Status();
  }
};

struct CachedPlan {
  std::unique_ptr<fa_plan> plan;
  uint64_t generation = 0;
  fa_attention_desc desc;  // its text pointers are not compared
  std::string kernel;
  std::string isa;
};

class ThreadCache {
 public:
  Status run(const fa_attention_desc& desc, const fa_attention_args& args, void* stream);

 private:
  static constexpr int kPlans = 4;

  Status find(const fa_attention_desc& desc, const fa_plan** plan);

  CachedPlan plans_[kPlans];
  int next_ = 0;  // entry that the next new plan replaces
  Memory scratch_;
  Memory state_;
};

bool is_same_text(const char* text, const std::string& kept) { return text == nullptr ? kept.empty() : kept == text; }

bool is_hit(const CachedPlan& entry, const fa_attention_desc& desc, uint64_t generation) {
  return entry.plan != nullptr && entry.generation == generation && desc.score_mod == nullptr &&
         std::memcmp(&entry.desc, &desc, offsetof(fa_attention_desc, kernel)) == 0 && is_same_text(desc.kernel, entry.kernel) &&
         is_same_text(desc.isa, entry.isa);
}

Status ThreadCache::find(const fa_attention_desc& desc, const fa_plan** plan) {
  const uint64_t generation = settings_generation.load(std::memory_order_acquire);
  for (const CachedPlan& entry : plans_) {
    if (is_hit(entry, desc, generation)) {
      *plan = entry.plan.get();
      return Status();
    }
  }
  std::unique_ptr<fa_plan> created;
  FA_TRY(create_plan(desc, &created, desc.device_type == FA_DEVICE_CPU));  // there is no device memory to lend
  CachedPlan& entry = plans_[next_];
  entry.plan.reset();
  entry.kernel = created->problem.kernel;
  entry.isa = created->problem.isa;
  entry.generation = generation;
  entry.desc = desc;
  entry.plan = std::move(created);
  next_ = (next_ + 1) % kPlans;
  *plan = entry.plan.get();
  return Status();
}

Status ThreadCache::run(const fa_attention_desc& desc, const fa_attention_args& args, void* stream) {
  const fa_plan* plan = nullptr;
  FA_TRY(find(desc, &plan));
  const WorkspaceSize size = plan->choice->workspace();
  if (desc.device_type != FA_DEVICE_CPU && (size.scratch_bytes != 0 || size.state_bytes != 0)) {
    return unsupported(
        "fa_attention on a GPU serves problems without workspace; this one needs %zu bytes: use fa_plan_create and fa_run",
        size.scratch_bytes + size.state_bytes);
  }
  fa_workspace workspace;
  set_defaults(&workspace);
  bool is_new = false;
  FA_TRY(scratch_.reserve(size.scratch_bytes, &is_new));
  FA_TRY(state_.reserve(size.state_bytes, &is_new));
  if (is_new) FA_TRY(init_plan_state(*plan, state_.base.get(), state_.bytes, stream));
  workspace.scratch = scratch_.base.get();
  workspace.scratch_bytes = scratch_.bytes;
  workspace.state = state_.base.get();
  workspace.state_bytes = state_.bytes;
  return run_plan(*plan, args, workspace, stream, 0);
}

// A caller's parallel_for may call fa_attention again on a thread that is inside it: then the cache, in use, is not there to be
// found.
class CacheLoan {
 public:
  CacheLoan() : cache_(std::move(slot())) {
    if (cache_ == nullptr) cache_ = std::make_unique<ThreadCache>();
  }
  ~CacheLoan() { slot() = std::move(cache_); }
  CacheLoan(const CacheLoan&) = delete;
  CacheLoan& operator=(const CacheLoan&) = delete;

  ThreadCache& operator*() { return *cache_; }

 private:
  static std::unique_ptr<ThreadCache>& slot() {
    thread_local std::unique_ptr<ThreadCache> kept;
    return kept;
  }

  std::unique_ptr<ThreadCache> cache_;
};

}  // namespace

void forget_attention_plans() { settings_generation.fetch_add(1, std::memory_order_acq_rel); }

}  // namespace flash_attn::api

fa_status fa_attention(const fa_attention_desc* desc, const fa_attention_args* args, void* stream) {
  using flash_attn::Status;
  return flash_attn::api::guarded([&]() -> Status {
    fa_attention_desc desc_storage;
    const fa_attention_desc* usable_desc = nullptr;
    FA_TRY(flash_attn::api::adopt(desc, &desc_storage, &usable_desc));
    fa_attention_args args_storage;
    const fa_attention_args* usable_args = nullptr;
    FA_TRY(flash_attn::api::adopt(args, &args_storage, &usable_args));
    flash_attn::api::CacheLoan loan;
    return (*loan).run(*usable_desc, *usable_args, stream);
  });
}
