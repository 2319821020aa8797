// Tests of the cache folder under several processes at once: each gets the right code for each kernel, whatever the others write,
// damage or delete meanwhile.
#include "cuda/jit/files.h"
#include "cuda/jit/kernel_store.h"
#include "tests/cuda/jit/fake_nvrtc.h"
#include "tests/cuda/jit/toy.h"

#include <gtest/gtest.h>

#include <sys/wait.h>

namespace flash_attn::cuda {
namespace {

constexpr int kKernels = 12;

StoreSettings settings_for(const std::string& folder, uint64_t limit) {
  StoreSettings settings;
  settings.nvrtc = fake::provide;
  settings.cache_folder = folder;
  settings.cache_limit_bytes = limit;
  return settings;
}

// The number of kernels compiled, or 100 if any came back wrong.
int find_all(const StoreSettings& settings, int rounds, int start) {
  for (int i = 0; i < rounds * kKernels; ++i) {
    const KernelRequest request = toy_request((i * 5 + start) % kKernels);
    KernelStore store(settings);
    KernelImage image;
    ImageSource source;
    if (!store.find(request, &image, &source).ok()) return 100;
    if (image.cubin.rfind("code of " + request.text, 0) != 0) return 100;
  }
  return fake::compilations < 99 ? fake::compilations.load() : 99;
}

template <class Body>
pid_t in_process(Body&& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  return child;
}

int exit_code(pid_t child) {
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Processes, ShareOneFolder) {
  const TemporaryFolder folder;
  const StoreSettings settings = settings_for(folder.path(), 1 << 30);
  fake::reset();
  const pid_t a = in_process([&] { return find_all(settings, 20, 0); });
  const pid_t b = in_process([&] { return find_all(settings, 20, 7); });
  const int compiled_a = exit_code(a), compiled_b = exit_code(b);
  EXPECT_LE(compiled_a, kKernels);
  EXPECT_LE(compiled_b, kKernels);
  EXPECT_GE(compiled_a + compiled_b, kKernels);
  EXPECT_EQ(folder.files().size(), static_cast<size_t>(kKernels));
  EXPECT_EQ(exit_code(in_process([&] { return find_all(settings, 1, 0); })), 0) << "a later process compiles nothing";
}

TEST(Processes, SurviveDamageAndDeletion) {
  const TemporaryFolder folder;
  const StoreSettings settings =
      settings_for(folder.path(), 20000);  // holds some of the kernels: the processes delete all the time
  fake::reset();
  std::vector<pid_t> finders;
  for (int i = 0; i < 3; ++i) finders.push_back(in_process([&settings, i] { return find_all(settings, 6, i) == 100; }));
  const pid_t vandal = in_process([&] {
    for (int i = 0; i < 200; ++i)
      for (const std::string& path : folder.files()) {
        if (path.size() < 7 || path.substr(path.size() - 7) != ".kernel") continue;
        std::string bytes;
        if (!read_file(path, &bytes).empty() || bytes.empty()) continue;
        bytes[static_cast<size_t>(i * 131) % bytes.size()] ^= 1;
        (void)write_file(path, bytes);
      }
    return 0;
  });
  for (const pid_t finder : finders) EXPECT_EQ(exit_code(finder), 0);
  EXPECT_EQ(exit_code(vandal), 0);
}

}  // namespace
}  // namespace flash_attn::cuda
