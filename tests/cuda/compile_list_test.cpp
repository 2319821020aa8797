// Compiles the fixed list of kernels for every architecture, without a GPU, and fails on any that does not compile, spills, uses
// local memory or has its matrix instructions serialised. Prints registers, size and time of each. Without a compiler: skipped
// (77), which a CI run does not accept.
//   compile_list [--filter <part of name or architecture>]... [--jobs n] [--cache <folder>] [--archive <file>] [--log]
// --cache remembers kernels that were found good, so that only changed ones are compiled again; --archive writes what was compiled.
#include "cuda/entries/compile_list.h"
#include "cuda/jit/kernel_store.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace flash_attn::cuda {
namespace {

struct Options {
  std::vector<std::string> filters;
  unsigned jobs = std::max(1u, std::thread::hardware_concurrency());
  std::string cache, archive;
  bool shows_log = false;
};

struct Result {
  Status status;
  CompileReport report;
  KernelImage image;
  std::string wrong;
  bool was_kept = false;
};

bool parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--log") {
      options->shows_log = true;
      continue;
    }
    if (i + 1 >= argc) return false;
    const char* value = argv[++i];
    if (name == "--filter")
      options->filters.push_back(value);
    else if (name == "--jobs")
      options->jobs = static_cast<unsigned>(std::max(1, std::atoi(value)));
    else if (name == "--cache")
      options->cache = value;
    else if (name == "--archive")
      options->archive = value;
    else
      return false;
  }
  return true;
}

bool passes(const KernelRequest& request, const std::vector<std::string>& filters) {
  const std::string text = request.name + " " + request.arch;
  return std::all_of(filters.begin(), filters.end(), [&](const std::string& part) { return text.find(part) != text.npos; });
}

// The one kind of kernel that may spill, until it has tiles that fit: the widest heads of the mma.sync forward with softcap, a
// window, pages, lengths and splits at once.
bool may_spill(const std::string& name) {
  for (const char* part :
       {"sm80_fwd ", " d=256 ", " mask=2 ", " has_softcap=1 ", " is_paged=1 ", " has_lengths=1 ", " has_splits=1"})
    if (name.find(part) == name.npos) return false;
  return true;
}

void make(const Nvrtc& nvrtc, const KernelRequest& request, const DiskCache& cache, Result* result) {
  const Digest key = request_key(request, false, nvrtc.version);
  if (cache.find(key, &result->image)) {
    result->was_kept = true;
  } else {
    result->status = compile(nvrtc, request, false, &result->report);
    if (!result->status.ok()) return;
    result->wrong = defects(result->report.facts);
    if (result->wrong.rfind("spills registers", 0) == 0 && may_spill(request.name)) {
      std::printf("known: %s %s\n", request.name.c_str(), result->wrong.c_str());
      result->wrong.clear();
    }
    if (result->report.facts.registers == 0) result->wrong += " the log does not tell its registers";
    const double seconds = result->report.seconds;
    const KernelFacts facts = result->report.facts;
    const std::string log = result->report.log;
    result->image = make_image(request, key, nvrtc.version, std::move(result->report));
    result->report = {{}, log, facts, seconds};
    if (result->wrong.empty()) (void)cache.keep(result->image);  // a cache that cannot be written costs time only
  }
  result->image.key = request_key(request, false);
}

void print(const KernelRequest& request, const Result& result, bool shows_log) {
  if (!result.status.ok()) {
    std::printf("FAILED %s %s\n%s\n", request.arch.c_str(), request.name.c_str(), result.status.message().c_str());
    return;
  }
  char time[32] = "   kept";
  if (!result.was_kept) std::snprintf(time, sizeof time, "%5.2f s", result.report.seconds);
  std::printf("%-8s %s %4d registers %7zu bytes  %s%s%s\n", request.arch.c_str(), time, result.image.registers,
              result.image.cubin.size(), request.name.c_str(), result.wrong.empty() ? "" : "\n  WRONG: ", result.wrong.c_str());
  if (shows_log) std::printf("%s\n", result.report.log.c_str());
}

int run(const Options& options) {
  const Nvrtc* nvrtc = nullptr;
  if (const Status status = get_nvrtc(&nvrtc); !status.ok()) {
    std::printf("%s\n", status.message().c_str());
    return std::getenv("CI") ? 1 : 77;
  }
  std::vector<KernelRequest> requests;
  for (KernelRequest& request : compile_list())
    if (passes(request, options.filters)) requests.push_back(std::move(request));
  std::vector<Result> results(requests.size());
  const DiskCache cache(options.cache, uint64_t{4} << 30);
  std::atomic<size_t> next{0};
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < options.jobs; ++i)
    threads.emplace_back([&] {
      for (size_t at; (at = next++) < requests.size();) make(*nvrtc, requests[at], cache, &results[at]);
    });
  for (std::thread& thread : threads) thread.join();
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  size_t bad = 0, bytes = 0, compiled = 0;
  double seconds = 0, longest = 0;
  std::vector<KernelImage> images;
  for (size_t i = 0; i < requests.size(); ++i) {
    print(requests[i], results[i], options.shows_log);
    bad += !results[i].status.ok() || !results[i].wrong.empty();
    bytes += results[i].image.cubin.size();
    compiled += !results[i].was_kept;
    seconds += results[i].report.seconds;
    longest = std::max(longest, results[i].report.seconds);
    if (results[i].status.ok()) images.push_back(std::move(results[i].image));
  }
  std::printf("NVRTC %d.%d: %zu kernels, %zu compiled in %.1f s (%.1f s of %u threads, longest %.2f s), %zu bytes, %zu wrong\n",
              nvrtc->version / 1000, nvrtc->version % 1000 / 10, requests.size(), compiled, wall, seconds, options.jobs, longest,
              bytes, bad);
  if (!options.archive.empty())
    if (const Status status = write_archive(options.archive, images); !status.ok()) {
      std::printf("%s\n", status.message().c_str());
      return 1;
    }
  return requests.empty() || bad > 0 ? 1 : 0;
}

}  // namespace
}  // namespace flash_attn::cuda

int main(int argc, char** argv) {
  flash_attn::cuda::Options options;
  if (!flash_attn::cuda::parse(argc, argv, &options)) {
    std::printf("usage: compile_list [--filter part]... [--jobs n] [--cache folder] [--archive file] [--log]\n");
    return 2;
  }
  return flash_attn::cuda::run(options);
}
