// Turns the counts of the differential tests into docs/coverage.md: feature x dtype x kernel x instruction set, forward and
// backward. GPU architectures stand where instruction sets do. Exits 1 when a cell of this machine's CPU neither ran nor was
// refused by its kernel, or when no kernel of an instruction set ran a feature.
#include "tests/support/runner.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace flash_attn::test {
namespace {

constexpr const char* kAllIsas[] = {"baseline", "avx2", "avx512", "avx512_bf16", "amx_bf16", "neon"};

struct Counts {
  int64_t runs = 0, refusals = 0;
};

using Cells = std::map<std::string, Counts>;

std::string cell_name(const std::string& feature, const std::string& dtype, const std::string& kernel, const std::string& isa) {
  return feature + "\t" + dtype + "\t" + kernel + "\t" + isa;
}

bool has_isa(const Cells& cells, const std::string& isa) {
  for (const auto& [name, counts] : cells) {
    if (name.substr(name.rfind('\t') + 1) == isa) return true;
  }
  return false;
}

// Adds a file's counts, but for instruction sets that an earlier file had: those of two machines are not to be summed.
bool read_counts(const std::string& path, Cells* cells) {
  std::ifstream file(path);
  if (!file) return false;
  const Cells earlier = *cells;
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string feature, dtype, kernel, isa;
    Counts counts;
    std::getline(fields, feature, '\t');
    std::getline(fields, dtype, '\t');
    std::getline(fields, kernel, '\t');
    std::getline(fields, isa, '\t');
    fields >> counts.runs >> counts.refusals;
    if (!fields) return false;
    if (has_isa(earlier, isa)) continue;
    Counts& cell = (*cells)[cell_name(feature, dtype, kernel, isa)];
    cell.runs += counts.runs;
    cell.refusals += counts.refusals;
  }
  return true;
}

std::vector<std::string> isas_in(const Cells& cells) {
  std::vector<std::string> present;
  for (const char* isa : kAllIsas) {
    if (has_isa(cells, isa)) present.push_back(isa);
  }
  return present;
}

// Text of one table cell: the counts of f32, bf16 and f16. Adds to `faults` what is missing.
std::string write_cell(const Cells& cells, const std::string& feature, const std::string& kernel, const std::string& isa,
                       std::string* faults) {
  std::string text;
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    const auto found = cells.find(cell_name(feature, dtype_text(dtype), kernel, isa));
    const Counts counts = found == cells.end() ? Counts() : found->second;
    if (!text.empty()) text += ' ';
    if (counts.runs > 0) text += std::to_string(counts.runs);
    if (counts.runs == 0) text += counts.refusals > 0 ? "refused" : "**0**";
    if (counts.runs == 0 && counts.refusals == 0)
      *faults += "never run: " + cell_name(feature, dtype_text(dtype), kernel, isa) + "\n";
  }
  return text;
}

void check_isa_totals(const Cells& cells, const std::string& isa, std::string* faults) {
  for (const std::string& feature : all_features()) {
    for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
      int64_t runs = 0;
      for (const std::string& kernel : kernel_names()) {
        const auto found = cells.find(cell_name(feature, dtype_text(dtype), kernel, isa));
        if (found != cells.end()) runs += found->second.runs;
      }
      if (runs == 0) *faults += "served by no kernel: " + feature + ", " + dtype_text(dtype) + ", " + isa + "\n";
    }
  }
}

// One table: a row for each feature, a column for each pair of kernel and instruction set.
struct Column {
  std::string title, kernel, isa;
};

std::string write_table(const Cells& cells, const std::vector<std::string>& rows, const std::vector<Column>& columns,
                        std::string* faults) {
  std::string text = "| feature |";
  for (const Column& column : columns) text.append(" ").append(column.title).append(" |");
  text += "\n| --- |";
  for (size_t n = 0; n < columns.size(); ++n) text += " --- |";
  text += "\n";
  for (const std::string& feature : rows) {
    text.append("| ").append(feature).append(" |");
    for (const Column& column : columns)
      text.append(" ").append(write_cell(cells, feature, column.kernel, column.isa, faults)).append(" |");
    text += "\n";
  }
  return text + "\n";
}

// Architectures and the kernels that were forced on them. What a GPU has not run is shown, and no fault of this machine.
std::map<std::string, std::vector<std::string>> gpu_kernels(const Cells& cells) {
  std::map<std::string, std::vector<std::string>> found;
  for (const auto& [name, counts] : cells) {
    const size_t last = name.rfind('\t'), before = name.rfind('\t', last - 1);
    const std::string isa = name.substr(last + 1), kernel = name.substr(before + 1, last - before - 1);
    if (isa.rfind("sm_", 0) != 0) continue;
    std::vector<std::string>& kernels = found[isa];
    if (std::find(kernels.begin(), kernels.end(), kernel) == kernels.end()) kernels.push_back(kernel);
  }
  return found;
}

std::string write_gpus(const Cells& cells) {
  std::string text, no_faults;
  for (const auto& [isa, kernels] : gpu_kernels(cells)) {
    std::vector<Column> forward, backward;
    for (const std::string& kernel : kernels) {
      const bool is_backward = kernel.find("bwd") != std::string::npos;
      (is_backward ? backward : forward).push_back({kernel, kernel, isa});
    }
    for (const std::vector<Column>& columns : {forward, backward}) {
      if (columns.empty()) continue;
      const bool is_backward = columns.front().kernel.find("bwd") != std::string::npos;
      text.append("## GPU ").append(isa).append(is_backward ? ", backward\n\n" : "\n\n");
      text += "Without the cases whose head dims no GPU kernel serves.\n\n";
      text += write_table(cells, is_backward ? all_backward_features() : all_features(), columns, &no_faults);
    }
  }
  return text;
}

std::string write_page(const Cells& cells, std::string* faults) {
  const std::vector<std::string> present = isas_in(cells);
  std::string text =
      "# Coverage\n\n"
      "Generated by `script/coverage` from the case table (`tests/cases_table.cpp`): how many cases with a feature really ran on "
      "a\n"
      "kernel and instruction set (of a GPU: architecture) forced by name, each compared with the fp64 oracle. A cell holds the "
      "counts for f32, bf16 and "
      "f16.\n"
      "\"refused\" means that the kernel declined the case by name. Counts of an instruction set that the writing machine lacks "
      "come from\n"
      "another machine, or from an emulator.\n\n";
  std::string absent;
  for (const char* isa : kAllIsas) {
    bool found = false;
    for (const std::string& name : present) found = found || name == isa;
    if (!found) absent.append(absent.empty() ? "" : ", ").append(isa);
  }
  if (!absent.empty()) text.append("Not on the machines that wrote this: ").append(absent).append(".\n\n");
  std::vector<Column> backward;
  for (const std::string& isa : present) {
    std::vector<Column> columns;
    for (const std::string& kernel : kernel_names()) columns.push_back({kernel, kernel, isa});
    text.append("## ").append(isa).append("\n\n").append(write_table(cells, all_features(), columns, faults));
    check_isa_totals(cells, isa, faults);
    backward.push_back({isa, kBackwardKernel, isa});
  }
  text +=
      "## Backward\n\n"
      "One kernel on every instruction set. dq, dk and dv are compared in each case, the optional gradients in those that name "
      "them.\n\n";
  text += write_table(cells, all_backward_features(), backward, faults);
  text += write_gpus(cells);
  text +=
      "## Refused as unsupported, by name\n\n"
      "On CPUs: appending to the cache (`k_new`, rotary), `score_mod`, f8 inputs, head dims above 512: see "
      "`tests/cpu/refusals_test.cpp`.\n";
  return text;
}

int report(int argc, char** argv) {
  Cells cells;
  std::string out;
  for (int n = 1; n < argc; ++n) {
    if (std::string(argv[n]) == "--out" && n + 1 < argc) {
      out = argv[++n];
    } else if (!read_counts(argv[n], &cells)) {
      std::fprintf(stderr, "cannot read counts from %s\n", argv[n]);
      return 1;
    }
  }
  if (cells.empty() || out.empty()) {
    std::fprintf(stderr, "usage: coverage_report COUNTS... --out FILE\n");
    return 2;
  }
  std::string faults;
  const std::string text = write_page(cells, &faults);
  std::ofstream file(out);
  file << text;
  for (const std::string& isa : isa_names()) {
    if (text.find("## " + isa + "\n") == std::string::npos) faults += "instruction set of this machine never run: " + isa + "\n";
  }
  std::fputs(faults.c_str(), stderr);
  return faults.empty() && file.good() ? 0 : 1;
}

}  // namespace
}  // namespace flash_attn::test

int main(int argc, char** argv) { return flash_attn::test::report(argc, argv); }
