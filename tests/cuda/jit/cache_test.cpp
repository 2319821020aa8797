// Tests of the way memory -> archive -> disk -> compiler, with a stand-in for the compiler and the loader: who is asked when, by
// how many threads, and what is said when nobody can serve.
#include "cuda/jit/files.h"
#include "cuda/jit/kernel_cache.h"
#include "tests/cuda/jit/fake_nvrtc.h"
#include "tests/cuda/jit/toy.h"

#include <gtest/gtest.h>

#include <thread>

namespace flash_attn::cuda {
namespace {

std::atomic<int> loads{0};

Status load_nothing(const KernelRequest& request, const KernelImage& image, LoadedKernel* kernel) {
  ++loads;
  if (image.cubin.rfind("code of " + request.text, 0) != 0) return {FA_STATUS_INTERNAL, "the code is of another text"};
  kernel->kernel = reinterpret_cast<CUkernel>(uintptr_t{1});
  return {};
}

class CacheTest : public testing::Test {
 protected:
  void SetUp() override {
    fake::reset();
    loads = 0;
    settings_.nvrtc = fake::provide;
  }
  StoreSettings with_disk() {
    StoreSettings settings = settings_;
    settings.cache_folder = folder_.path() + "/cache";
    return settings;
  }
  // Finds one kernel in a fresh store, as a new process would.
  ImageSource find_fresh(const StoreSettings& settings, const KernelRequest& request) {
    KernelStore store(settings);
    KernelImage image;
    ImageSource source = ImageSource::archive;
    const Status status = store.find(request, &image, &source);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(image.cubin.rfind("code of " + request.text, 0), 0u);
    EXPECT_EQ(image.registers, 40);
    EXPECT_EQ(image.static_shared_bytes, 64);
    return source;
  }
  std::string write_toy_archive(const std::string& name, int compiler) {
    const KernelRequest request = toy_request(5);
    CompileReport report;
    const Nvrtc* nvrtc = nullptr;
    EXPECT_TRUE(fake::provide(&nvrtc).ok());
    EXPECT_TRUE(compile(*nvrtc, request, false, &report).ok());
    const std::string path = folder_.path() + "/" + name;
    EXPECT_TRUE(write_archive(path, {make_image(request, request_key(request, false), compiler, std::move(report))}).ok());
    return path;
  }

  TemporaryFolder folder_;
  StoreSettings settings_;
};

TEST_F(CacheTest, SecondProcessFindsItOnDisk) {
  EXPECT_EQ(find_fresh(with_disk(), toy_request(5)), ImageSource::compiler);
  EXPECT_EQ(find_fresh(with_disk(), toy_request(5)), ImageSource::disk);
  EXPECT_EQ(find_fresh(with_disk(), toy_request(6)), ImageSource::compiler);
  EXPECT_EQ(fake::compilations, 2);
}

TEST_F(CacheTest, AnotherCompilerCompilesAgain) {
  EXPECT_EQ(find_fresh(with_disk(), toy_request(5)), ImageSource::compiler);
  fake::version = 12080;
  EXPECT_EQ(find_fresh(with_disk(), toy_request(5)), ImageSource::compiler);
  EXPECT_EQ(find_fresh(with_disk(), toy_request(5)), ImageSource::disk);
}

TEST_F(CacheTest, ADamagedCacheFileIsCompiledAgain) {
  EXPECT_EQ(find_fresh(with_disk(), toy_request(5)), ImageSource::compiler);
  const std::string path = with_disk().cache_folder + "/" + hex_text(request_key(toy_request(5), false, 13000)) + ".kernel";
  std::string bytes;
  ASSERT_EQ(read_file(path, &bytes), "");
  ASSERT_EQ(write_file(path, bytes.substr(0, bytes.size() - 1)), "");
  EXPECT_EQ(find_fresh(with_disk(), toy_request(5)), ImageSource::compiler);
  EXPECT_EQ(find_fresh(with_disk(), toy_request(5)), ImageSource::disk);
}

TEST_F(CacheTest, AnArchiveServesWithoutCompiler) {
  settings_.archive = write_toy_archive("all", 13000);
  settings_.archive_is_chosen = true;
  settings_.nvrtc = fake::hidden;
  EXPECT_EQ(find_fresh(settings_, toy_request(5)), ImageSource::archive);
  KernelStore store(settings_);
  KernelImage image;
  ImageSource source;
  const Status status = store.find(toy_request(6), &image, &source);
  EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR);
  for (const char* part : {"toy s_k=6", "sm_90a", "not in the kernel archive", "FLASH_ATTN_NVRTC", "FLASH_ATTN_ARCHIVE"})
    EXPECT_NE(status.message().find(part), std::string::npos) << part << " in " << status.message();
}

TEST_F(CacheTest, AnArchiveNamedByTheProgramComesFirst) {
  const std::string path = write_toy_archive("named", 13000);
  settings_.archive = folder_.path() + "/missing";
  settings_.archive_is_chosen = true;
  ASSERT_TRUE(use_archive(path).ok());
  EXPECT_EQ(find_fresh(settings_, toy_request(5)), ImageSource::archive);
  const Status refused = use_archive(folder_.path() + "/nowhere");
  EXPECT_EQ(refused.code(), FA_STATUS_COMPILE_ERROR);
  EXPECT_NE(refused.message().find("/nowhere cannot be read"), std::string::npos) << refused.message();
  EXPECT_EQ(named_archive(), path) << "a refused archive replaces nothing";
  ASSERT_TRUE(use_archive("").ok());
  EXPECT_EQ(named_archive(), "");
}

// Without a compiler, the message says what is wrong with the archive; with one, the kernel is compiled.
TEST_F(CacheTest, AKernelDamagedInAnArchiveIsSaidToBe) {
  settings_.archive = write_toy_archive("all", 13000);
  settings_.archive_is_chosen = true;
  std::string bytes;
  ASSERT_EQ(read_file(settings_.archive, &bytes), "");
  bytes[bytes.size() - 10] = static_cast<char>(bytes[bytes.size() - 10] ^ 1);
  ASSERT_EQ(write_file(settings_.archive, bytes), "");
  EXPECT_EQ(find_fresh(settings_, toy_request(5)), ImageSource::compiler);
  settings_.nvrtc = fake::hidden;
  KernelStore store(settings_);
  KernelImage image;
  ImageSource source;
  const Status status = store.find(toy_request(5), &image, &source);
  EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR);
  EXPECT_NE(status.message().find("which has it damaged"), std::string::npos) << status.message();
}

// An archive of another version's kernels: its list is whole, but the sources that its head names are others.
TEST_F(CacheTest, AnArchiveOfOtherSourcesIsSaidToBe) {
  settings_.archive = write_toy_archive("old", 13000);
  settings_.archive_is_chosen = true;
  std::string bytes;
  ASSERT_EQ(read_file(settings_.archive, &bytes), "");
  constexpr size_t kSources = 16, kChecksum = 80, kHead = 112, kEntry = 56;  // places in the head; sizes
  bytes[kSources] = static_cast<char>(bytes[kSources] ^ 1);
  std::fill_n(bytes.begin() + kChecksum, 32, '\0');
  const Digest checksum = sha256(std::string_view(bytes).substr(0, kHead + kEntry));
  std::copy(checksum.begin(), checksum.end(), bytes.begin() + kChecksum);
  ASSERT_EQ(write_file(settings_.archive, bytes), "");
  settings_.nvrtc = fake::hidden;
  KernelStore store(settings_);
  KernelImage image;
  ImageSource source;
  const Status status = store.find(toy_request(6), &image, &source);
  EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR);
  EXPECT_NE(status.message().find("being of flash-attn-lib "), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("with other kernel sources"), std::string::npos) << status.message();
}

TEST_F(CacheTest, AnArchiveFolderHasAFilePerArchitecture) {
  write_toy_archive("sm_90a.kernels", 13000);
  settings_.archive = folder_.path();
  settings_.archive_is_chosen = true;
  EXPECT_EQ(find_fresh(settings_, toy_request(5)), ImageSource::archive);
  EXPECT_EQ(find_fresh(settings_, kernel_request(kToyForm, ToyConfig{5, 0, true}, 80)), ImageSource::compiler);
}

TEST_F(CacheTest, AnArchiveFromACompilerTooNewForTheDriverIsPassedOver) {
  settings_.archive = write_toy_archive("all", 13000);
  settings_.driver_version = 12080;
  EXPECT_EQ(find_fresh(settings_, toy_request(5)), ImageSource::compiler);
  settings_.driver_version = 13010;
  EXPECT_EQ(find_fresh(settings_, toy_request(5)), ImageSource::archive);
}

TEST_F(CacheTest, AChosenArchiveThatCannotBeReadIsAnError) {
  settings_.archive = folder_.path() + "/missing";
  settings_.archive_is_chosen = true;
  KernelStore store(settings_);
  KernelImage image;
  ImageSource source;
  const Status status = store.find(toy_request(5), &image, &source);
  EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR);
  EXPECT_NE(status.message().find("/missing"), std::string::npos);
  EXPECT_NE(status.message().find("FLASH_ATTN_ARCHIVE"), std::string::npos);
}

TEST_F(CacheTest, ADamagedInstalledArchiveIsPassedOver) {
  const std::string path = folder_.path() + "/sm_90a.kernels";
  ASSERT_EQ(write_file(path, "no archive"), "");
  settings_.archive = folder_.path();
  EXPECT_EQ(find_fresh(settings_, toy_request(5)), ImageSource::compiler);
}

TEST_F(CacheTest, AFailedCompilationSaysWhyAndIsTriedAgain) {
  KernelRequest request = toy_request(5);
  request.text += "#error\n";
  KernelCache cache(settings_, load_nothing);
  const MemoryKey key = memory_key(kToyForm, ToyConfig{}, 90);
  const LoadedKernel* kernel = nullptr;
  for (int attempt = 1; attempt <= 2; ++attempt) {
    const Status status = cache.load(key, request, &kernel);
    EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR);
    EXPECT_NE(status.message().find("toy.cu(1): error: #error directive"), std::string::npos) << status.message();
    EXPECT_EQ(cache.find(key), nullptr);
    EXPECT_EQ(fake::compilations, attempt);
  }
}

TEST_F(CacheTest, AnUnknownArchitectureIsNamedWithTheKnownOnes) {
  KernelStore store(settings_);
  KernelImage image;
  ImageSource source;
  const Status status = store.find(kernel_request(kToyForm, ToyConfig{}, 120), &image, &source);
  EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR);
  EXPECT_NE(status.message().find("for sm_120a, only for 80, 90"), std::string::npos) << status.message();
}

TEST_F(CacheTest, ThreadsCompileOneKernelOnce) {
  fake::delay_ms = 50;
  KernelCache cache(settings_, load_nothing);
  const MemoryKey key = memory_key(kToyForm, ToyConfig{}, 90);
  const LoadedKernel* kernels[8] = {};
  std::vector<std::thread> threads;
  for (auto& kernel : kernels)
    threads.emplace_back([&cache, &key, &kernel] { EXPECT_TRUE(cache.load(key, toy_request(5), &kernel).ok()); });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(fake::compilations, 1);
  EXPECT_EQ(loads, 1);
  for (const LoadedKernel* kernel : kernels) EXPECT_EQ(kernel, cache.find(key));
  ASSERT_NE(cache.find(key), nullptr);
  EXPECT_EQ(cache.find(key)->registers, 40);
}

TEST_F(CacheTest, DifferentKernelsCompileSideBySide) {
  fake::delay_ms = 200;
  KernelCache cache(settings_, load_nothing);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&cache, i] {
      const LoadedKernel* kernel = nullptr;
      EXPECT_TRUE(cache.load(memory_key(kToyForm, ToyConfig{i, 0, true}, 90), toy_request(i), &kernel).ok());
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(fake::compilations, 4);
  EXPECT_GE(fake::most_running, 2);
}

TEST_F(CacheTest, AReadyKernelDoesNotWaitForOthers) {
  KernelCache cache(settings_, load_nothing);
  const MemoryKey ready = memory_key(kToyForm, ToyConfig{1, 0, true}, 90);
  const LoadedKernel* kernel = nullptr;
  ASSERT_TRUE(cache.load(ready, toy_request(1), &kernel).ok());
  fake::delay_ms = 300;
  std::thread other([&] {
    const LoadedKernel* slow = nullptr;
    EXPECT_TRUE(cache.load(memory_key(kToyForm, ToyConfig{2, 0, true}, 90), toy_request(2), &slow).ok());
  });
  while (fake::running == 0) std::this_thread::yield();
  EXPECT_EQ(cache.find(ready), kernel);
  EXPECT_EQ(fake::running, 1) << "the other compilation had ended before";
  other.join();
}

TEST_F(CacheTest, RefusalsSayWhatToDo) {
  for (const LoadPolicy policy : {LoadPolicy::no_compile, LoadPolicy::capturing}) {
    const Status status = not_in_memory("toy s_k=5", policy);
    EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR);
    EXPECT_NE(status.message().find("toy s_k=5"), std::string::npos);
    EXPECT_NE(status.message().find("fa_prepare"), std::string::npos);
    EXPECT_NE(status.message().find(policy == LoadPolicy::capturing ? "captured" : "FA_RUN_NO_COMPILE"), std::string::npos);
  }
}

TEST_F(CacheTest, DumpKeepsSourceCodeAndLog) {
  settings_.dump_folder = folder_.path() + "/dump";
  EXPECT_EQ(find_fresh(settings_, toy_request(5)), ImageSource::compiler);
  const std::string base =
      settings_.dump_folder + "/toy-sm_90a-" + hex_text(request_key(toy_request(5), true, 13000)).substr(0, 12);
  std::string text, code, log;
  ASSERT_EQ(read_file(base + ".cu", &text), "");
  ASSERT_EQ(read_file(base + ".cubin", &code), "");
  ASSERT_EQ(read_file(base + ".log", &log), "");
  EXPECT_NE(text.find(toy_request(5).text), std::string::npos);
  EXPECT_NE(code.find("--generate-line-info"), std::string::npos);
  EXPECT_NE(log.find("40 registers"), std::string::npos);
  EXPECT_TRUE(is_file(settings_.dump_folder + "/math/mask.h"));
}

TEST_F(CacheTest, TheEnvironmentNamesFolders) {
  const auto set = [](const char* name, const char* value) { value ? setenv(name, value, 1) : unsetenv(name); };
  for (const char* name :
       {"FLASH_ATTN_ARCHIVE", "FLASH_ATTN_CACHE_DIR", "FLASH_ATTN_CACHE_MB", "FLASH_ATTN_DUMP", "XDG_CACHE_HOME", "HOME"})
    unsetenv(name);
  EXPECT_EQ(settings_from_environment().cache_folder, "");
  EXPECT_FALSE(settings_from_environment().archive_is_chosen);
  set("HOME", "/h");
  EXPECT_EQ(settings_from_environment().cache_folder, "/h/.cache/flash-attn-lib");
  set("XDG_CACHE_HOME", "/x");
  EXPECT_EQ(settings_from_environment().cache_folder, "/x/flash-attn-lib");
  set("FLASH_ATTN_CACHE_DIR", "/c");
  EXPECT_EQ(settings_from_environment().cache_folder, "/c");
  set("FLASH_ATTN_CACHE_DIR", "");
  EXPECT_EQ(settings_from_environment().cache_folder, "");
  set("FLASH_ATTN_CACHE_MB", "3");
  EXPECT_EQ(settings_from_environment().cache_limit_bytes, uint64_t{3} << 20);
  set("FLASH_ATTN_ARCHIVE", "/a");
  EXPECT_EQ(settings_from_environment().archive, "/a");
  EXPECT_TRUE(settings_from_environment().archive_is_chosen);
  set("FLASH_ATTN_DUMP", "/d");
  EXPECT_EQ(settings_from_environment().dump_folder, "/d");
}

}  // namespace
}  // namespace flash_attn::cuda
