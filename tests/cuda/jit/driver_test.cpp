// Tests of the driver table and of loading, against a stand-in for libcuda.so.1 (fake_driver.cpp, put first on the loader's path).
// Each behaviour of the driver is met in a process of its own, as the driver is opened once.
#include "cuda/driver.h"
#include "cuda/jit/kernel_cache.h"
#include "tests/cuda/jit/toy.h"

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace flash_attn::cuda {
namespace {

// Runs body() in a process that meets a driver of this behaviour; body returns a text, empty if all was well.
template <class Body>
std::string with_driver(const char* behaviour, Body&& body) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    setenv("FAKE_CUDA", behaviour, 1);
    setenv("FLASH_ATTN_NVRTC", "none", 1);
    const std::string text = body();
    const bool sent = write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    _exit(sent ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char buffer[512];
  for (ssize_t count; (count = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(count));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? text : "the process died; it said: " + text;
}

std::string open_message() {
  const Driver* driver = nullptr;
  const Status status = get_driver(&driver);
  if (status.ok()) return "ok " + std::to_string(driver->version) + " " + std::to_string(driver_version());
  return std::to_string(status.code()) + (driver ? " table " : " ") + status.message() + " " + std::to_string(driver_version());
}

std::string missing_functions() {
  const Driver* driver = nullptr;
  if (!get_driver(&driver).ok()) return "no driver";
  std::string missing;
#define FA_CHECK(name, parameters) \
  if (!driver->name) missing += #name " ";
  FA_CUDA_FUNCTIONS(FA_CHECK)
#undef FA_CHECK
  return missing;
}

TEST(DriverTable, IsCompleteWithADriver) {
  EXPECT_EQ(with_driver("good", open_message), "ok 13000 13000");
  EXPECT_EQ(with_driver("good", missing_functions), "");
}

TEST(DriverTable, OldIncompleteAndIdleDriversAreNamed) {
  EXPECT_EQ(with_driver("old", open_message),
            "4 the NVIDIA driver serves CUDA 11.4, but 12.0 or newer is needed: update the driver to 525 or newer 0");
  EXPECT_EQ(with_driver("missing", open_message),
            "4 the NVIDIA driver (CUDA 13.0) lacks cuTensorMapEncodeTiled: update the driver 0");
  EXPECT_EQ(with_driver("no_gpu", open_message),
            "4 the NVIDIA driver finds no GPU: is one visible to this process (CUDA_VISIBLE_DEVICES)? 0");
}

TEST(DriverTable, ErrorsCarryTheDriversWords) {
  EXPECT_EQ(with_driver("good",
                        [] {
                          const Driver* driver = nullptr;
                          if (!get_driver(&driver).ok()) return std::string("no driver");
                          const Status status = driver_status(*driver, 719, "launching toy");
                          return std::to_string(status.code()) + " " + status.message();
                        }),
            "4 launching toy failed: CUDA_ERROR_FAKE (a fake error, 719)");
}

// An archive with the toy kernel, for a process without compiler.
std::string write_toy_archive(const TemporaryFolder& folder) {
  const KernelRequest request = toy_request(5);
  CompileReport report;
  report.cubin = "code";
  const std::string path = folder.path() + "/toy.kernels";
  EXPECT_TRUE(write_archive(path, {make_image(request, request_key(request, false), 13000, std::move(report))}).ok());
  return path;
}

std::string load_toy(LoadPolicy policy) {
  const LoadedKernel* kernel = nullptr;
  const Status status = get_kernel(kToyForm, ToyConfig{5, 0, true}, 90, policy, &kernel);
  if (!status.ok()) return status.message();
  const LoadedKernel* again = nullptr;
  if (!get_kernel(kToyForm, ToyConfig{5, 0, true}, 90, LoadPolicy::capturing, &again).ok() || again != kernel)
    return "not in memory";
  CUfunction function = nullptr;
  if (!load_into_context(*kernel, 0, 200000, &function).ok() || !function) return "no function";
  const Status too_much = load_into_context(*kernel, 0, 300000, &function);
  if (too_much.ok() || too_much.message().find("300000 bytes of shared memory") == std::string::npos)
    return "300000: " + too_much.message();
  const auto loads = reinterpret_cast<int (*)()>(dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), "fake_cuda_loaded"));
  return "loaded " + std::to_string(loads());
}

TEST(Loading, FromAnArchiveWithoutCompiler) {
  const TemporaryFolder folder;
  const std::string archive = write_toy_archive(folder);
  const auto run = [&](LoadPolicy policy) {
    setenv("FLASH_ATTN_ARCHIVE", archive.c_str(), 1);
    return load_toy(policy);
  };
  EXPECT_EQ(with_driver("good", [&] { return run(LoadPolicy::allowed); }), "loaded 1");
  EXPECT_EQ(with_driver("good", [&] { return run(LoadPolicy::no_compile); }),
            "toy s_k=5 delta=0 causal=1 is not loaded and may not be now, because run_flags has FA_RUN_NO_COMPILE: call fa_prepare "
            "before");
  EXPECT_EQ(with_driver("bad_image", [&] { return run(LoadPolicy::allowed); }),
            "loading toy s_k=5 delta=0 causal=1 failed: CUDA_ERROR_INVALID_IMAGE (a fake error, 200); it was compiled for sm_90a "
            "by NVRTC 13.0, "
            "the driver serves CUDA 13.0");
}

TEST(Loading, PolicyComesFromTheStreamAndTheFlags) {
  const auto policy = [](uint32_t flags) {
    LoadPolicy found = LoadPolicy::allowed;
    const Status status = load_policy(nullptr, flags, &found);
    return status.ok() ? std::to_string(static_cast<int>(found)) : status.message();
  };
  EXPECT_EQ(with_driver("good", [&] { return policy(0); }), "0");
  EXPECT_EQ(with_driver("good", [&] { return policy(FA_RUN_NO_COMPILE); }), "1");
  EXPECT_EQ(with_driver("capturing", [&] { return policy(0); }), "2");
}

}  // namespace
}  // namespace flash_attn::cuda
