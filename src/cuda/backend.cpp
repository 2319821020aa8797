// The CUDA room's side of the seam: its kernels. The first that serves a problem on its device gets it; the Hopper backward waits
// behind the other, for those who name it, until its tests have run on a GPU through the library.
#include "cuda/backend.h"

#include "cuda/ahead.h"
#include "cuda/device.h"
#include "cuda/entries/tuning.h"
#include "cuda/expectation.h"
#include "cuda/jit/kernel_store.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>

namespace flash_attn::cuda {
namespace {

constexpr const KernelEntry* kEntries[] = {&kSm90ForwardEntry, &kSm80ForwardEntry, &kSm90BackwardEntry, &kSm80BackwardEntry};
constexpr const char* kKernelNames[] = {"sm90_fwd", "sm80_fwd", "sm90_bwd", "sm80_bwd", nullptr};

Status check_name(const Problem& problem) {
  if (problem.kernel.empty()) return {};
  const std::string_view name = kernel_name_of(problem.kernel);
  if (std::any_of(std::begin(kEntries), std::end(kEntries), [name](const KernelEntry* entry) { return name == entry->name; }))
    return {};
  std::string names;
  for (const KernelEntry* entry : kEntries) names += (names.empty() ? "" : ", ") + std::string(entry->name);
  return invalid("kernel is \"%s\" but GPUs have: %s", problem.kernel.c_str(), names.c_str());
}

}  // namespace

// The first kernel that may and can.
Status choose_entry(const Problem& problem, const DeviceInfo& device, const KernelEntry** chosen, std::vector<Refusal>* refusals) {
  *chosen = nullptr;
  Status first;
  for (const KernelEntry* entry : kEntries) {
    std::string reason;
    if (!problem.kernel.empty() && kernel_name_of(problem.kernel) != entry->name) {
      reason = "another kernel is forced by name";
    } else if (entry->direction != problem.direction && problem.kernel.empty()) {
      reason = entry->direction == Direction::forward ? "serves the forward" : "serves the backward";
    } else if (const Status status = entry->supports(problem, device); !status.ok()) {
      reason = status.message();
      if (first.ok()) first = status;
    } else if (*chosen == nullptr) {
      *chosen = entry;
      continue;
    } else {
      reason = "serves this too";
    }
    if (refusals) refusals->push_back({entry->name, reason});
  }
  return *chosen ? Status() : first;
}

Status list_kernels(const Problem& problem, const DeviceInfo& device, std::vector<KernelRequest>* requests) {
  FA_TRY(check_name(problem));
  const KernelEntry* entry = nullptr;
  FA_TRY(choose_entry(problem, device, &entry, nullptr));
  if (entry->kernels == nullptr) return unsupported("%s cannot be compiled ahead of time", entry->name);
  return entry->kernels(problem, device, requests);
}

namespace {

// Is it worth asking for a plan? A kernel forced by name says itself what it does not serve.
bool may_serve(const KernelEntry& entry, const Problem& problem, const DeviceInfo& device) {
  if (!problem.kernel.empty()) return kernel_name_of(problem.kernel) == entry.name;
  return entry.direction == problem.direction && (entry.takes_f32 || problem.dtype != DType::f32) &&
         (entry.only_capability == 0 || entry.only_capability == device.compute_capability);
}

Status make_plan(const Problem& problem, Plan** plan, std::vector<Refusal>* refusals) {
  *plan = nullptr;
  FA_TRY(check_name(problem));
  DeviceInfo device;
  FA_TRY(get_device(problem.device_index, &device));
  for (const KernelEntry* entry : kEntries) {
    if (refusals != nullptr || !may_serve(*entry, problem, device)) continue;
    Status status = entry->plan(problem, device, plan);
    if (status.code() != FA_STATUS_UNSUPPORTED) return status;
  }
  // None did, or a person wants to know why those that did not.
  const KernelEntry* entry = nullptr;
  FA_TRY(choose_entry(problem, device, &entry, refusals));
  return entry->plan(problem, device, plan);
}

Status bound_workspace(const Problem& maxima, WorkspaceSize* size) {
  FA_TRY(check_name(maxima));
  DeviceInfo device;
  FA_TRY(get_device(maxima.device_index, &device));
  const KernelEntry* entry = nullptr;
  FA_TRY(choose_entry(maxima, device, &entry, nullptr));
  *size = entry->workspace_bound(maxima, device);
  return {};
}

Status expect(const Problem& problem, std::string* text) {
  DeviceInfo device;
  FA_TRY(get_device(problem.device_index, &device));
  *text = expectation_text(problem, device);
  if (problem.direction == Direction::forward) *text += "tuning class: " + class_text(classify(problem, device)) + "\n";
  return {};
}

}  // namespace

extern const Backend kCudaBackend;
const Backend kCudaBackend = {"cuda",      FA_DEVICE_CUDA, kKernelNames,         make_plan,  bound_workspace,
                              device_text, expect,         write_kernel_archive, use_archive};

}  // namespace flash_attn::cuda
