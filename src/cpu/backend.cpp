// The CPU room's side of the seam: its kernels, best first, and the plan that holds a choice of kernel, instruction set and tiling.

#include "core/backend.h"

#include "cpu/device.h"
#include "cpu/gradient_launch.h"
#include "cpu/kernels/params.h"
#include "cpu/launch.h"
#include "cpu/schedule.h"
#include "cpu/thread_pool.h"

#include <cstdlib>
#include <cstring>
#include <new>

namespace flash_attn::cpu {

extern const KernelTable kBaselineTable;
#if defined(__x86_64__)
extern const KernelTable kAvx2Table, kAvx512Table, kAvx512Bf16Table, kAmxBf16Table;
#elif defined(__aarch64__)
extern const KernelTable kNeonTable;
#endif

namespace {

// As KernelKind counts. "mixed" gives each request of a call the kernel that fits its number of rows.
constexpr const char* kKernelNames[] = {"mixed", "panel", "rows", "backward", nullptr};
constexpr int64_t kMaxDim = 512;
constexpr int64_t kMaxKeys = 1LL << 30;

const KernelTable* table_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::avx2:
      return &kAvx2Table;
    case Isa::avx512:
      return &kAvx512Table;
    case Isa::avx512_bf16:
      return &kAvx512Bf16Table;
    case Isa::amx_bf16:
      return &kAmxBf16Table;
#elif defined(__aarch64__)
    case Isa::neon:
      return &kNeonTable;
#endif
    case Isa::baseline:
      return &kBaselineTable;
    default:
      return nullptr;
  }
}

// By name from the description, else from the environment as it was at first use, else the best of this machine.
Status choose_isa(const Problem& problem, Isa* isa) {
  static const char* const preferred = std::getenv("FLASH_ATTN_ISA");
  const char* source = problem.isa.empty() ? "FLASH_ATTN_ISA" : "isa";
  const char* name = problem.isa.empty() ? preferred : problem.isa.c_str();
  if (!name || !*name) name = available_isa_name(0);
  if (!find_isa(name, isa))
    return invalid("%s is \"%s\" but must be one of: baseline, neon, avx2, avx512, avx512_bf16, amx_bf16", source, name);
  if (!isa_available(*isa)) return unsupported("%s asks for \"%s\", which this CPU does not have", source, name);
  return {};
}

// Why a kernel cannot serve this direction, or null.
const char* wrong_direction(const Problem& problem, KernelKind kind) {
  const bool is_backward = problem.direction == Direction::backward;
  if (is_backward == (kind == KernelKind::backward)) return nullptr;
  return is_backward ? "serves FA_FORWARD only" : "serves FA_BACKWARD only";
}

Status choose_kernel(const Problem& problem, KernelKind* kind) {
  *kind = problem.direction == Direction::backward ? KernelKind::backward : KernelKind::mixed;
  if (problem.kernel.empty()) return {};
  for (int i = 0; kKernelNames[i]; ++i) {
    if (problem.kernel != kKernelNames[i]) continue;
    *kind = static_cast<KernelKind>(i);
    if (const char* reason = wrong_direction(problem, *kind)) return unsupported("kernel \"%s\" %s", kKernelNames[i], reason);
    return {};
  }
  return invalid("kernel is \"%s\" but the CPU has: mixed, panel, rows, backward", problem.kernel.c_str());
}

// What no CPU kernel serves, by name.
Status check_served(const Problem& p) {
  if (p.dtype != DType::f32 && p.dtype != DType::f16 && p.dtype != DType::bf16)
    return unsupported("dtype %s is not served on CPUs; f32, f16 and bf16 are", dtype_name(p.dtype));
  if (p.has_append) return unsupported("k_new (appending to the cache) is not served on CPUs yet");
  if (p.has_rotary) return unsupported("rotary_cos (rotary embedding) is not served on CPUs yet");
  if (p.has_descale) return unsupported("q_descale, k_descale and v_descale (f8 inputs) are not served on CPUs");
  if (p.has_score_mod) return unsupported("score_mod is not served on CPUs");
  if (p.d > kMaxDim)
    return unsupported("d is %lld but CPU kernels serve 1 to %lld", static_cast<long long>(p.d), static_cast<long long>(kMaxDim));
  if (p.d_v > kMaxDim)
    return unsupported("d_v is %lld but CPU kernels serve 1 to %lld", static_cast<long long>(p.d_v),
                       static_cast<long long>(kMaxDim));
  if (p.max_s_k > kMaxKeys)
    return unsupported("max_s_k is %lld but CPU kernels serve up to %lld keys", static_cast<long long>(p.max_s_k),
                       static_cast<long long>(kMaxKeys));
  return {};
}

int threads_of(const Problem& problem) {
  const int most = default_num_threads();
  return problem.num_threads > 0 && problem.num_threads < most ? problem.num_threads : most;
}

// What the plans of both directions share: a name, threads, workspace of scratch alone.
class CpuPlan : public Plan {
 public:
  CpuPlan(const Problem& problem, const KernelTable& table) : problem_(problem), table_(table) {}

  const char* kernel() const override { return name_; }
  WorkspaceSize workspace() const override { return workspace_; }

  Status prepare(void*) const override {
    start_pool(threads_);
    return {};
  }

  Status init_state(void*, size_t, void*) const override { return {}; }

 protected:
  void finish(KernelKind shown, int threads, size_t scratch_bytes) {
    size_t length = 0;
    for (const char* part : {"cpu/", kKernelNames[static_cast<int>(shown)], "/", table_.isa})
      for (; *part && length + 1 < sizeof(name_); ++part) name_[length++] = *part;
    name_[length] = 0;
    threads_ = threads;
    workspace_.scratch_bytes = scratch_bytes;
  }

  const Problem& problem_;
  const KernelTable& table_;

 private:
  WorkspaceSize workspace_;
  int threads_ = 1;
  char name_[48] = {};
};

class ForwardPlan final : public CpuPlan {
 public:
  ForwardPlan(const Problem& problem, const KernelTable& table, KernelKind kind)
      : CpuPlan(problem, table), tiling_(choose_tiling(problem, table, kind, threads_of(problem))) {
    // A name that says what will run: one kernel alone where every request must take it.
    KernelKind shown = kind;
    const int64_t rows = longest_rows(problem);
    const bool varies = problem.packed_q || problem.has_input(FA_INPUT_SEQUSED_Q);
    if (kind == KernelKind::mixed && rows <= tiling_.max_direct_rows) shown = KernelKind::rows;
    if (kind == KernelKind::mixed && rows > tiling_.max_direct_rows && !varies) shown = KernelKind::panel;
    finish(shown, tiling_.threads, scratch_bytes(problem_, tiling_));
  }

  std::string text() const override {
    return format_text("lanes %d, row blocks of %d, key blocks of %d, %d threads, %s products", tiling_.format.lanes,
                       tiling_.block_rows, tiling_.block_keys, tiling_.threads, tiling_.format.is_dot2 ? "bf16" : "fp32");
  }

  Status run(const fa_attention_args& args, const fa_workspace& workspace, void*, uint32_t) const override {
    return launch_forward(problem_, table_, tiling_, args, static_cast<char*>(workspace.scratch));
  }

 private:
  Tiling tiling_;
};

class BackwardPlan final : public CpuPlan {
 public:
  BackwardPlan(const Problem& problem, const KernelTable& table)
      : CpuPlan(problem, table), tiling_(choose_gradient_tiling(problem, table, threads_of(problem))) {
    finish(KernelKind::backward, tiling_.threads, gradient_scratch_bytes(problem_, tiling_));
  }

  std::string text() const override {
    return format_text("lanes %d, row blocks of %d, key blocks of %d, %d threads, %s products", tiling_.format.lanes,
                       tiling_.block_rows, tiling_.block_keys, tiling_.threads, tiling_.format.is_dot2 ? "bf16" : "fp32");
  }

  Status run(const fa_attention_args& args, const fa_workspace& workspace, void*, uint32_t) const override {
    return launch_backward(problem_, table_, tiling_, args, static_cast<char*>(workspace.scratch));
  }

 private:
  GradientTiling tiling_;
};

const char* passed_over(const Problem& problem, KernelKind kind) {
  if (const char* reason = wrong_direction(problem, kind)) return reason;
  return problem.kernel.empty() ? "serves this too, for requests of any length" : "another kernel is forced by name";
}

Status make_plan(const Problem& problem, Plan** plan, std::vector<Refusal>* refusals) {
  *plan = nullptr;
  Isa isa{};
  KernelKind kind{};
  Status status = choose_isa(problem, &isa);
  if (status.ok()) status = choose_kernel(problem, &kind);
  if (status.ok()) status = check_served(problem);
  const KernelTable* const table = status.ok() ? table_of(isa) : nullptr;
  if (status.ok() && !table) status = unsupported("isa \"%s\" is not part of this build", isa_name(isa));
  if (!status.ok()) {
    if (refusals)
      for (int i = 0; kKernelNames[i]; ++i) refusals->push_back({kKernelNames[i], status.message()});
    return status;
  }
  if (refusals)
    for (int i = 0; kKernelNames[i]; ++i)
      if (i != static_cast<int>(kind)) refusals->push_back({kKernelNames[i], passed_over(problem, static_cast<KernelKind>(i))});
  if (kind == KernelKind::backward)
    *plan = new (std::nothrow) BackwardPlan(problem, *table);
  else
    *plan = new (std::nothrow) ForwardPlan(problem, *table, kind);
  if (!*plan) return Status(FA_STATUS_OUT_OF_MEMORY, "no memory for a plan");
  return {};
}

Status bound_workspace(const Problem& maxima, WorkspaceSize* size) {
  Isa isa{};
  KernelKind kind{};
  FA_TRY(choose_isa(maxima, &isa));
  FA_TRY(choose_kernel(maxima, &kind));
  FA_TRY(check_served(maxima));
  const KernelTable* const table = table_of(isa);
  if (!table) return unsupported("isa \"%s\" is not part of this build", isa_name(isa));
  *size = WorkspaceSize{};
  size->scratch_bytes = kind == KernelKind::backward ? gradient_scratch_bound(maxima, *table, threads_of(maxima))
                                                     : scratch_bound(maxima, *table, kind, threads_of(maxima));
  return {};
}

Status describe_device(int, std::string* text) {
  *text = cpu_text();
  return {};
}

}  // namespace

extern const Backend kCpuBackend;
const Backend kCpuBackend = {"cpu", FA_DEVICE_CPU, kKernelNames, make_plan, bound_workspace, describe_device};

}  // namespace flash_attn::cpu
