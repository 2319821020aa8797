// Tests with the run-time compiler itself: the toy kernel for every architecture, errors, defects that must be noticed, small
// stacks. Without a compiler the whole program is skipped (77), which a CI run does not accept.
#include "cuda/jit/headers.h"
#include "cuda/jit/kernel_store.h"
#include "tests/cuda/jit/toy.h"

#include <gtest/gtest.h>

#include <pthread.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace flash_attn::cuda {
namespace {

KernelRequest text_request(const std::string& text, const char* arch = "sm_90a") { return {"test", "test", arch, text}; }

TEST(Compile, TheToyKernelForEveryArchitecture) {
  for (const int capability : {80, 86, 87, 89, 90, 100, 120}) {
    const KernelRequest request = kernel_request(kToyForm, ToyConfig{5, 2, true}, capability);
    CompileReport report;
    const Status status = compile_only(request, &report);
    if (!status.ok() && status.message().find("only for") != std::string::npos) {
      EXPECT_GE(capability, 100) << status.message();  // a compiler older than the architecture
      continue;
    }
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(report.cubin.substr(0, 4),
              "\x7f"
              "ELF");
    EXPECT_GT(report.facts.registers, 0) << report.log;
    EXPECT_EQ(defects(report.facts), "");
    EXPECT_GT(report.seconds, 0);
  }
}

TEST(Compile, EveryMathHeader) {
  std::string text;
  for (int i = 0; i < kNumEmbeddedHeaders; ++i)
    if (std::strncmp(kEmbeddedHeaders[i].name, "math/", 5) == 0)
      text += std::string("#include \"") + kEmbeddedHeaders[i].name + "\"\n";
  text += "extern \"C\" __global__ void test(unsigned* out) { *out = flash_attn::dropout_key(1, 2).key0; }\n";
  CompileReport report;
  const Status status = compile_only(text_request(text), &report);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(Compile, AnErrorBringsTheWholeLog) {
  CompileReport report;
  const Status status = compile_only(text_request("extern \"C\" __global__ void test() { undeclared = 1; }\n"), &report);
  EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR);
  for (const char* part : {"compiling test for sm_90a failed", "NVRTC", "test.cu(1): error", "\"undeclared\" is undefined"})
    EXPECT_NE(status.message().find(part), std::string::npos) << part << " in " << status.message();
}

TEST(Compile, AMissingHeaderIsNamed) {
  CompileReport report;
  const Status status = compile_only(text_request("#include \"math/nowhere.h\"\n"), &report);
  EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR);
  EXPECT_NE(status.message().find("math/nowhere.h"), std::string::npos);
}

TEST(Compile, SpillsAreNoticed) {
  CompileReport report;
  const Status status = compile_only(text_request(R"(
extern "C" __global__ void __launch_bounds__(1024, 2) test(float* p) {
  float a[48];
#pragma unroll
  for (int i = 0; i < 48; ++i) a[i] = p[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 48; ++i)
#pragma unroll
    for (int j = 0; j < 48; ++j) a[i] += a[j] * a[(i + j) % 48];
#pragma unroll
  for (int i = 0; i < 48; ++i) p[i * 1024 + threadIdx.x] = a[i];
})"),
                                     &report);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_GT(report.facts.spill_store_bytes, 0) << report.log;
  EXPECT_NE(defects(report.facts).find("spills registers"), std::string::npos);
}

TEST(Compile, LocalMemoryIsNoticed) {
  CompileReport report;
  const Status status = compile_only(text_request(R"(
extern "C" __global__ void test(int* p) {
  int a[300] = {};
  for (int i = 0; i < p[2]; ++i) a[p[i + 3]] += i;
  *p = a[p[1]];
})"),
                                     &report);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_GE(report.facts.stack_bytes, 1200) << report.log;
  EXPECT_NE(defects(report.facts).find("local memory"), std::string::npos);
}

TEST(Compile, SerialisedMatrixInstructionsAreNoticed) {
  CompileReport report;
  // The accumulator is read between a product and the wait for it.
  const Status status = compile_only(text_request(R"(
extern "C" __global__ void __launch_bounds__(128) test(float* p, unsigned long long a, unsigned long long b) {
  float d[4] = {p[0], p[1], p[2], p[3]};
  for (int i = 0; i < 4; ++i) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    d[0] += 1.0f;
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  p[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
})"),
                                     &report);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_FALSE(report.facts.notes.empty()) << report.log;
}

TEST(Compile, WorksFromAThreadWithASmallStack) {
  // Deep recursion of templates costs the compiler stack, which the caller's thread may not have.
  static Status status;
  const auto body = [](void*) -> void* {
    CompileReport report;
    status = compile_only(
        text_request("template <int n> __device__ int f(int i) { if constexpr (n > 0) return f<n - 1>(i) * 3 + n; else "
                     "return i; }\nextern \"C\" __global__ void test(int* p) { *p = f<150>(*p); }\n"),
        &report);
    return nullptr;
  };
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 128 << 10), 0);
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, body, nullptr), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(Nvrtc, ChoicesThatDoNotServeSayWhatIsAccepted) {
  Nvrtc nvrtc;
  const Status hidden = open_nvrtc("none", 0, &nvrtc);
  EXPECT_EQ(hidden.code(), FA_STATUS_COMPILE_ERROR);
  EXPECT_NE(hidden.message().find("FLASH_ATTN_ARCHIVE"), std::string::npos);
  for (const char* choice : {"/nowhere", "/proc", "libm.so.6"}) {
    const Status status = open_nvrtc(choice, 0, &nvrtc);
    EXPECT_EQ(status.code(), FA_STATUS_COMPILE_ERROR) << choice;
    EXPECT_NE(status.message().find(std::string("FLASH_ATTN_NVRTC is \"") + choice + "\" but must be"), std::string::npos)
        << status.message();
  }
}

TEST(Nvrtc, NoNewerThanTheDriver) {
  Nvrtc nvrtc;
  const Status status = open_nvrtc(nullptr, 12080, &nvrtc);
  EXPECT_TRUE(!status.ok() || nvrtc.version / 1000 == 12);
  EXPECT_EQ(open_nvrtc(nullptr, 11080, &nvrtc).code(), FA_STATUS_COMPILE_ERROR);
}

TEST(Nvrtc, AFolderIsAChoice) {
  const Nvrtc* found = nullptr;
  ASSERT_TRUE(get_nvrtc(&found).ok());
  const size_t slash = found->path.rfind('/');
  ASSERT_NE(slash, std::string::npos) << found->path;
  Nvrtc nvrtc;
  const Status status = open_nvrtc(found->path.substr(0, slash).c_str(), 0, &nvrtc);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(nvrtc.version, found->version);
}

}  // namespace
}  // namespace flash_attn::cuda

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const flash_attn::cuda::Nvrtc* nvrtc = nullptr;
  const flash_attn::Status status = flash_attn::cuda::get_nvrtc(&nvrtc);
  if (!status.ok()) {
    std::printf("%s\n", status.message().c_str());
    return std::getenv("CI") ? 1 : 77;
  }
  std::printf("NVRTC %d.%d, %s\n", nvrtc->version / 1000, nvrtc->version % 1000 / 10, nvrtc->path.c_str());
  return RUN_ALL_TESTS();
}
