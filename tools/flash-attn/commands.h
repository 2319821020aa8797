// The sub-commands, one function each, called by main() with what was typed. They throw the errors of errors.h.
#pragma once

#include "run.h"

#include <cstdint>
#include <string>
#include <vector>

namespace flash_attn::tool {

void print_info();

struct ExplainOptions {
  int64_t batch = 1, s_q = 1024, s_k = 0, heads = 8, kv_heads = 0, dim = 64, dim_v = 0, page_size = 0;
  RunOptions run;  // the options that need no file
  std::string case_name;
  std::string arch;  // plan for a GPU of this architecture
  bool is_backward = false;
};
void print_explanation(const ExplainOptions& options);

struct CompileOptions {
  std::vector<std::string> archs;               // "sm_90a"
  std::vector<std::string> sets = {"default"};  // default, bench, test, or names of cases
  std::string out;
  int threads = 0;  // 0: all processors
  bool is_verbose = false;
};
void compile_kernels(const CompileOptions& options);

struct CheckOptions {
  std::string filter;
  std::vector<std::string> dtypes, isas;
  bool is_verbose = false;
};
void self_test(const CheckOptions& options);

struct DemoOptions {
  std::string fixture;  // folder; empty: beside the source or the installed program
  std::string svg = "attention.svg";
  std::string device = "cpu";  // as of run
};
void run_demo(const DemoOptions& options);

}  // namespace flash_attn::tool
