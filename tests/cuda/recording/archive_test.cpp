// The benchmark cases without a compiler, from an archive. Usage: archive_test write|load|run FILE. `write` makes the archive, with
// a compiler and no GPU; `load` prepares every case against a driver that takes any code, so that a kernel that the archive lacks
// is an error; `run` computes them on a GPU and compares sampled rows with the oracle.
#include "tests/cuda/device_run.h"
#include "tests/cuda/recording/recording.h"
#include "tests/support/device_descs.h"
#include "tests/support/reference.h"

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace flash_attn::test {
namespace {

constexpr int kSkipped = 77;
constexpr int64_t kSampledRows = 8;

int fail(const std::string& what) {
  std::printf("%s: %s\n", what.c_str(), fa_last_error());
  return 1;
}

int write(const char* path) {
  std::vector<fa_attention_desc> descs;
  for (const CaseSpec& spec : all_cases()) {
    if (!(spec.labels & kBench)) continue;
    for (const fa_attention_desc& desc : device_descs(spec)) descs.push_back(desc);
  }
  std::vector<const fa_attention_desc*> pointers;
  for (const fa_attention_desc& desc : descs) pointers.push_back(&desc);
  int64_t kernels = 0, unserved = 0;
  const fa_status status =
      fa_archive_write(path, "sm_90a", pointers.data(), static_cast<int64_t>(pointers.size()), 0, &kernels, &unserved);
  if (status == FA_STATUS_COMPILE_ERROR && std::strstr(fa_last_error(), "no NVRTC was found") && !std::getenv("CI")) {
    std::printf("skipped: %s\n", fa_last_error());
    return kSkipped;
  }
  if (status != FA_STATUS_OK) return fail("writing the archive");
  std::printf("%lld kernels, %lld unserved\n", static_cast<long long>(kernels), static_cast<long long>(unserved));
  return kernels > 0 && unserved == 0 ? 0 : 1;
}

// A kernel that no bench case needs is not compiled behind our back.
int check_that_nothing_compiles() {
  const TestProblem problem({.name = "not in the archive", .s_q = 40, .s_k = 40, .d = 40, .softcap = 3}, FA_DTYPE_BF16, 1);
  const DeviceProblem device(problem, Placement::aligned);
  const PlanHandle plan(device.desc(), {});
  if (plan.status() != FA_STATUS_OK) return fail("planning");
  if (fa_prepare(plan.get(), nullptr) == FA_STATUS_COMPILE_ERROR && std::strstr(fa_last_error(), "not in the kernel archive"))
    return 0;
  return fail("a kernel that is not in the archive was found, or another message came");
}

int load() {
  const Recording recording;
  if (!recording.works()) {
    std::printf("libcuda.so.1 is not the recording driver\n");
    return 1;
  }
  int prepared = 0;
  for (const CaseSpec& spec : all_cases()) {
    if (!(spec.labels & kBench)) continue;
    for (const fa_attention_desc& desc : device_descs(spec)) {
      const PlanHandle plan(desc, {});
      if (plan.status() != FA_STATUS_OK) return fail("planning " + spec.name);
      if (fa_prepare(plan.get(), nullptr) != FA_STATUS_OK) return fail("preparing " + spec.name);
      ++prepared;
    }
  }
  const long loaded = recording.calls()["cuLibraryLoadData"];
  std::printf("%d plans prepared with %ld kernels from the archive\n", prepared, loaded);
  return prepared > 0 && loaded > 0 ? check_that_nothing_compiles() : 1;
}

int run() {
  int checked = 0, wrong = 0;
  for (const CaseSpec& spec : all_cases()) {
    if (!(spec.labels & kBench)) continue;
    const std::vector<fa_dtype> dtypes = dtype_list(spec.dtypes);
    TestProblem problem(spec, dtypes[static_cast<size_t>(checked) % dtypes.size()], 1);
    const Reference reference = make_reference(problem, kSampledRows);
    DeviceProblem device(problem, Placement::aligned);
    const DeviceStream stream;
    const DeviceRun result = run_on_device(&problem, &device, stream, reference.rows);
    std::string fault = result.status == FA_STATUS_OK ? result.fault : result.message;
    if (fault.empty()) fault = compare(problem, reference, result.outputs);
    if (!fault.empty()) std::printf("%s: %s\n", problem.text().c_str(), fault.c_str());
    wrong += fault.empty() ? 0 : 1;
    ++checked;
  }
  std::printf("%d cases from the archive, %d wrong\n", checked, wrong);
  return checked > 0 && wrong == 0 ? check_that_nothing_compiles() : 1;
}

int main_of(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string action = argv[1];
  if (action == "write") return write(argv[2]);
  struct stat facts;
  if (stat(argv[2], &facts) != 0) {
    std::printf("skipped: %s has not been written\n", argv[2]);
    return std::getenv("CI") ? 1 : kSkipped;
  }
  setenv("FLASH_ATTN_NVRTC", "none", 1);
  setenv("FLASH_ATTN_CACHE_DIR", "", 1);
  setenv("FLASH_ATTN_ARCHIVE", argv[2], 1);
  require_gpu();
  return action == "load" ? load() : run();
}

}  // namespace
}  // namespace flash_attn::test

int main(int argc, char** argv) { return flash_attn::test::main_of(argc, argv); }
