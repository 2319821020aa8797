// From the text of one unit to machine code for one architecture, and what the assembler said of it. Needs a compiler (nvrtc.h) and
// no GPU; knows nothing of caches.
#pragma once

#include "core/status.h"
#include "cuda/jit/kernel_request.h"
#include "cuda/nvrtc.h"

#include <string>
#include <vector>

namespace flash_attn::cuda {

// What a kernel is made of, by the assembler's log.
struct KernelFacts {
  int registers = 0;
  int static_shared_bytes = 0;
  int stack_bytes = 0;  // local memory other than spills is on the stack too
  int spill_store_bytes = 0;
  int spill_load_bytes = 0;
  std::vector<std::string> notes;  // the assembler's remarks on matrix instructions, one line each: C7510 and its like
};

struct CompileReport {
  std::string cubin;
  std::string log;
  KernelFacts facts;
  double seconds = 0;
};

// Reads the facts of the function `entry` out of a log.
KernelFacts read_log(const std::string& log, const std::string& entry);

// Empty if the code is as it should be; else what is wrong: spills, local memory, matrix instructions one after the other.
std::string defects(const KernelFacts& facts);

// The compiler's options for a request; part of the key of all that is kept.
std::vector<std::string> compile_options(const KernelRequest& request, bool with_lines, int nvrtc_version);

// Compiles on a thread of its own, whose stack is as large as the compiler needs. On failure the status holds the whole log.
Status compile(const Nvrtc& nvrtc, const KernelRequest& request, bool with_lines, CompileReport* report);

}  // namespace flash_attn::cuda
