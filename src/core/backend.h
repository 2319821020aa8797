// The seam between core and the rooms (CPU, CUDA). What a room offers is in Backend; core knows nothing else of it.
#pragma once

#include "core/problem.h"
#include "core/status.h"

#include <cstddef>
#include <string>
#include <vector>

namespace flash_attn {

// What a kernel said of a problem: empty reason if it serves it.
struct Refusal {
  std::string kernel;
  std::string reason;
};

struct WorkspaceSize {
  size_t scratch_bytes = 0;
  size_t state_bytes = 0;
};

// A room's choice for one problem. Immutable after planning; run() may be called by many threads at once.
class Plan {
 public:
  virtual ~Plan() = default;
  virtual const char* kernel() const = 0;  // full name, "cpu/panel/avx512"
  virtual WorkspaceSize workspace() const = 0;
  virtual std::string text() const = 0;  // tiles, splits, expected work: for explain
  virtual Status prepare(void* context) const = 0;
  virtual Status init_state(void* state, size_t bytes, void* stream) const = 0;
  virtual Status run(const fa_attention_args& args, const fa_workspace& workspace, void* stream, uint32_t run_flags) const = 0;
};

// Kernels compiled ahead of time, for devices that need not be there.
struct ArchiveOrder {
  std::string path;
  std::string architectures;  // "sm_80,sm_90a"
  int num_threads = 0;        // 0: all processors
};
struct ArchiveReport {
  int64_t kernels = 0;   // in the archive
  int64_t unserved = 0;  // pairs of problem and architecture that no kernel serves
};

struct Backend {
  const char* name;
  fa_device_type device_type;
  const char* const* kernels;  // names, best first, NULL-terminated
  // Allocates *plan, which keeps a reference to the problem, or says why no kernel serves it. `refusals` (may be null) collects
  // what each kernel passed over said.
  Status (*plan)(const Problem& problem, Plan** plan, std::vector<Refusal>* refusals);
  // Upper bound over all problems whose extents do not exceed this one's.
  Status (*workspace_bound)(const Problem& maxima, WorkspaceSize* size);
  Status (*device_text)(int device_index, std::string* text);
  // What the device's ceilings make of a problem, in words, for explain; nullable.
  Status (*expectation)(const Problem& problem, std::string* text) = nullptr;
  // Of a room whose kernels are compiled at run time, else null: writes an archive, and looks for kernels in one (empty: no
  // longer).
  Status (*write_archive)(const std::vector<Problem>& problems, const ArchiveOrder& order, ArchiveReport* report) = nullptr;
  Status (*use_archive)(const std::string& path) = nullptr;
};

// The room for a device type, or null if this build has none.
const Backend* find_backend(fa_device_type device_type);

}  // namespace flash_attn
