// See compile.h.
#include "cuda/jit/compile.h"

#include "cuda/jit/headers.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <new>

namespace flash_attn::cuda {
namespace {

constexpr size_t kStackBytes = size_t{64} << 20;  // address space; memory is used only as the compiler goes deeper
constexpr int kFirstWithNoCache = 13000;

class Program {
 public:
  explicit Program(const Nvrtc& nvrtc) : nvrtc_(nvrtc) {}
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (handle) nvrtc_.nvrtcDestroyProgram(&handle);
  }
  NvrtcProgram handle = nullptr;

 private:
  const Nvrtc& nvrtc_;
};

Status nvrtc_failure(const Nvrtc& nvrtc, NvrtcResult result, const char* action, const KernelRequest& request) {
  return {FA_STATUS_COMPILE_ERROR,
          format_text("%s %s for %s failed: %s (NVRTC %d.%d, %s)", action, request.name.c_str(), request.arch.c_str(),
                      nvrtc.nvrtcGetErrorString(result), nvrtc.version / 1000, nvrtc.version % 1000 / 10, nvrtc.path.c_str())};
}

// "sm_90a" -> 90
int arch_number(const std::string& arch) {
  int number = 0;
  for (const char c : arch)
    if (c >= '0' && c <= '9') number = number * 10 + (c - '0');
  return number;
}

Status check_arch(const Nvrtc& nvrtc, const KernelRequest& request) {
  int count = 0;
  if (nvrtc.nvrtcGetNumSupportedArchs(&count) != kNvrtcSuccess || count <= 0) return {};  // then compiling itself will tell
  std::vector<int> archs(static_cast<size_t>(count));
  if (nvrtc.nvrtcGetSupportedArchs(archs.data()) != kNvrtcSuccess) return {};
  if (std::find(archs.begin(), archs.end(), arch_number(request.arch)) != archs.end()) return {};
  std::string list;
  for (const int arch : archs) list += (list.empty() ? "" : ", ") + std::to_string(arch);
  return {FA_STATUS_COMPILE_ERROR,
          format_text("NVRTC %d.%d (%s) cannot compile %s for %s, only for %s: another NVRTC is needed, named by FLASH_ATTN_NVRTC",
                      nvrtc.version / 1000, nvrtc.version % 1000 / 10, nvrtc.path.c_str(), request.name.c_str(),
                      request.arch.c_str(), list.c_str())};
}

Status create(const Nvrtc& nvrtc, const KernelRequest& request, Program* program) {
  std::vector<const char*> texts, names;
  for (const EmbeddedHeader* header : reached_headers(request.text)) {
    texts.push_back(header->text);
    names.push_back(header->name);
  }
  const std::string file = request.entry + ".cu";
  const NvrtcResult result = nvrtc.nvrtcCreateProgram(&program->handle, request.text.c_str(), file.c_str(),
                                                      static_cast<int>(texts.size()), texts.data(), names.data());
  return result == kNvrtcSuccess ? Status() : nvrtc_failure(nvrtc, result, "opening", request);
}

std::string program_log(const Nvrtc& nvrtc, NvrtcProgram program) {
  size_t size = 0;
  if (nvrtc.nvrtcGetProgramLogSize(program, &size) != kNvrtcSuccess || size <= 1) return {};
  std::string log(size, '\0');
  if (nvrtc.nvrtcGetProgramLog(program, log.data()) != kNvrtcSuccess) return {};
  while (!log.empty() && (log.back() == '\0' || log.back() == '\n')) log.pop_back();
  return log;
}

Status compile_here(const Nvrtc& nvrtc, const KernelRequest& request, bool with_lines, CompileReport* report) {
  FA_TRY(check_arch(nvrtc, request));
  Program program(nvrtc);
  FA_TRY(create(nvrtc, request, &program));
  const std::vector<std::string> options = compile_options(request, with_lines, nvrtc.version);
  std::vector<const char*> pointers;
  pointers.reserve(options.size());
  for (const std::string& option : options) pointers.push_back(option.c_str());
  const NvrtcResult result = nvrtc.nvrtcCompileProgram(program.handle, static_cast<int>(pointers.size()), pointers.data());
  report->log = program_log(nvrtc, program.handle);
  if (result != kNvrtcSuccess) {
    const Status status = nvrtc_failure(nvrtc, result, "compiling", request);
    return {status.code(), status.message() + "\n" + report->log};
  }
  report->facts = read_log(report->log, request.entry);
  size_t size = 0;
  NvrtcResult got = nvrtc.nvrtcGetCUBINSize(program.handle, &size);
  if (got == kNvrtcSuccess) {
    report->cubin.resize(size);
    got = nvrtc.nvrtcGetCUBIN(program.handle, report->cubin.data());
  }
  return got == kNvrtcSuccess && size > 0 ? Status() : nvrtc_failure(nvrtc, got, "reading the code of", request);
}

struct Job {
  const Nvrtc* nvrtc;
  const KernelRequest* request;
  bool with_lines;
  CompileReport* report;
  Status status;
  bool out_of_memory = false;
  bool has_thrown = false;
};

void* run_job(void* pointer) {
  Job& job = *static_cast<Job*>(pointer);
  try {
    job.status = compile_here(*job.nvrtc, *job.request, job.with_lines, job.report);
  } catch (const std::bad_alloc&) {
    job.out_of_memory = true;
  } catch (...) {
    job.has_thrown = true;  // an exception may not leave a thread
  }
  return nullptr;
}

}  // namespace

std::vector<std::string> compile_options(const KernelRequest& request, bool with_lines, int nvrtc_version) {
  std::vector<std::string> options = {"--gpu-architecture=" + request.arch, "--std=c++20", "--device-as-default-execution-space",
                                      "--ptxas-options=-v", "--ptxas-options=--warn-on-spills"};
  if (with_lines) options.push_back("--generate-line-info");
  if (nvrtc_version >= kFirstWithNoCache) options.push_back("--no-cache");  // the caches are ours
  return options;
}

Status compile(const Nvrtc& nvrtc, const KernelRequest& request, bool with_lines, CompileReport* report) {
  const auto start = std::chrono::steady_clock::now();
  Job job{&nvrtc, &request, with_lines, report, {}, false, false};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes, run_job, &job);
  pthread_attr_destroy(&attributes);
  if (error != 0)
    return {FA_STATUS_COMPILE_ERROR,
            format_text("no thread could be started to compile %s (error %d)", request.name.c_str(), error)};
  pthread_join(thread, nullptr);
  if (job.out_of_memory) return {FA_STATUS_OUT_OF_MEMORY, "the host allocator failed while compiling " + request.name};
  if (job.has_thrown) return {FA_STATUS_INTERNAL, "an unexpected exception while compiling " + request.name};
  report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return job.status;
}

}  // namespace flash_attn::cuda
