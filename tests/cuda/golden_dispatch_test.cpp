// Which kernel serves each row of the case table on each kind of GPU, against golden_dispatch.txt, and the rule of which rows must
// run the wgmma kernel on sm_90. Plans for known devices; no GPU, no compiler. With --write FILE, writes what the file should be.
#include "cuda/backend.h"
#include "cuda/known_devices.h"
#include "tests/support/device_descs.h"

#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

namespace flash_attn::test {
namespace {

using cuda::DeviceInfo;

constexpr const char* kArchs[] = {"sm_80", "sm_86", "sm_90a", "sm_100a", "sm_120a"};

std::string kernel_of(const Problem& problem, const DeviceInfo& device) {
  const cuda::KernelEntry* entry = nullptr;
  return cuda::choose_entry(problem, device, &entry, nullptr).ok() ? entry->name : "-";
}

struct Row {
  const CaseSpec* spec;
  fa_dtype dtype;
  Problem problem;
};

std::vector<Row> all_rows() {
  std::vector<Row> rows;
  for (const std::vector<CaseSpec>* table : {&all_cases(), &backward_cases()}) {
    for (const CaseSpec& spec : *table) {
      if (spec.direction == FA_BACKWARD && !(spec.labels & kTest)) continue;  // building them takes an fp64 forward
      for (const fa_attention_desc& desc : device_descs(spec)) {
        Row row = {&spec, desc.q.dtype, {}};
        if (const Status status = make_problem(desc, &row.problem); !status.ok())
          std::printf("%s: %s\n", spec.name.c_str(), status.message().c_str());
        rows.push_back(row);
      }
    }
  }
  return rows;
}

// A line for each case, or several where its dtypes run different kernels.
std::string dispatch_text(const std::vector<Row>& rows) {
  std::ostringstream text;
  text << "# Kernels by case, dtype and architecture; -: none. Written by: cuda_golden_dispatch --write "
          "tests/cuda/golden_dispatch.txt\n#";
  for (const char* arch : kArchs) text << ' ' << arch;
  text << '\n';
  for (size_t begin = 0, n = 0; n < rows.size(); begin = n) {
    std::string dtypes, kernels;
    for (; n < rows.size() && rows[n].spec == rows[begin].spec; ++n) {
      std::string own;
      for (const char* arch : kArchs) own += " " + kernel_of(rows[n].problem, cuda::known_devices(arch).front());
      if (n > begin && own != kernels) break;
      kernels = own;
      dtypes += (n > begin ? "," : "") + std::string(dtype_text(rows[n].dtype));
    }
    text << rows[begin].spec->name << ' ' << dtypes << ':' << kernels << '\n';
  }
  return text.str();
}

// Rows that TMA reads where they lie: bases promised, and every stride but the last a multiple of, 16 bytes.
bool is_aligned(const Problem& p) {
  const auto fits = [](const Axes& axes, int64_t alignment, int64_t element) {
    return alignment % 16 == 0 && axes.batch * element % 16 == 0 && axes.row * element % 16 == 0 && axes.head * element % 16 == 0;
  };
  return fits(p.q, p.q_alignment, 2) && fits(p.k, p.k_alignment, 2) && fits(p.v, p.v_alignment, 2) &&
         fits(p.o, p.o_alignment, dtype_bytes(p.o_dtype));
}

bool must_run_wgmma(const Problem& p) {
  return p.direction == Direction::forward && p.dtype != DType::f32 && p.d <= 256 && p.d_v <= 256 && is_aligned(p);
}

// Every aligned 16-bit problem of d, d_v <= 256 runs wgmma on sm_90; there is no exception.
int check_rule(const std::vector<Row>& rows) {
  const DeviceInfo device = cuda::known_devices("sm_90a").front();
  int wrong = 0, held = 0;
  for (const Row& row : rows) {
    if (!must_run_wgmma(row.problem)) continue;
    const std::string kernel = kernel_of(row.problem, device);
    if (kernel.rfind("sm90_", 0) == 0) {
      ++held;
      continue;
    }
    std::printf("%s %s runs %s on sm_90a, not wgmma: %s\n", row.spec->name.c_str(), dtype_text(row.dtype), kernel.c_str(),
                cuda::kSm90ForwardEntry.supports(row.problem, device).message().c_str());
    ++wrong;
  }
  std::printf("%4d rows of 16 bits run wgmma on sm_90a, %d do not\n", held, wrong);
  return wrong;
}

// Lines of one text that the other has not, each with a mark.
void print_missing(const std::string& text, const std::string& other, char mark) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (other.find(line + "\n") == std::string::npos) std::printf("%c %s\n", mark, line.c_str());
}

int check_golden(const std::string& now) {
  std::ifstream file(FLASH_ATTN_SOURCE_DIR "/tests/cuda/golden_dispatch.txt");
  std::stringstream golden;
  golden << file.rdbuf();
  if (golden.str() == now) return 0;
  std::printf(
      "dispatch is not that of tests/cuda/golden_dispatch.txt; where that is meant, write it anew (its first line says how)\n");
  print_missing(golden.str(), now, '-');
  print_missing(now, golden.str(), '+');
  return 1;
}

int run(int argc, char** argv) {
  const std::vector<Row> rows = all_rows();
  const std::string text = dispatch_text(rows);
  if (argc == 3 && std::strcmp(argv[1], "--write") == 0) {
    std::ofstream(argv[2]) << text;
    return 0;
  }
  const int golden = check_golden(text), rule = check_rule(rows);
  return golden + rule > 0 ? 1 : 0;
}

}  // namespace
}  // namespace flash_attn::test

int main(int argc, char** argv) { return flash_attn::test::run(argc, argv); }
