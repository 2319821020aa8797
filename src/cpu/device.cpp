// CPUID, caches and processor counts of this machine.

#include "cpu/device.h"

#include "core/status.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace flash_attn::cpu {
namespace {

constexpr Isa kAll[] = {Isa::amx_bf16, Isa::avx512_bf16, Isa::avx512, Isa::avx2, Isa::neon, Isa::baseline};
constexpr int kNumIsas = sizeof(kAll) / sizeof(kAll[0]);

#if defined(__x86_64__)
struct Features {
  bool avx2 = false, avx512 = false, avx512_bf16 = false, amx_bf16 = false;
};

uint64_t read_xcr0() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Linux hands out the AMX tile state on request, once per process; threads started later inherit the permission.
bool request_amx() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Features read_features() {
  Features found;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool has_xsave = (c >> 27) & 1, fma = (c >> 12) & 1, f16c = (c >> 29) & 1, movbe = (c >> 22) & 1;
  if (!has_xsave) return found;
  const uint64_t enabled = read_xcr0();
  const bool os_ymm = (enabled & 0x6) == 0x6, os_zmm = (enabled & 0xe6) == 0xe6, os_tiles = (enabled & 0x60000) == 0x60000;
  uint32_t b7 = 0, d7 = 0, a71 = 0;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c, &d7)) return found;
  const uint32_t max_subleaf = a;
  const bool vnni = (c >> 11) & 1;
  if (max_subleaf >= 1 && __get_cpuid_count(7, 1, &a71, &b, &c, &d) == 0) a71 = 0;
  const bool bmi = ((b7 >> 3) & 1) && ((b7 >> 8) & 1);
  // The compiler may use any instruction of the levels that cmake/isa.cmake names, the scalar ones included.
  uint32_t extended = 0;
  const bool lzcnt = __get_cpuid(0x80000001u, &a, &b, &extended, &d) && ((extended >> 5) & 1);
  found.avx2 = os_ymm && fma && f16c && bmi && movbe && lzcnt && ((b7 >> 5) & 1);
  const uint32_t v4 = (1u << 16) | (1u << 17) | (1u << 28) | (1u << 30) | (1u << 31);  // F, DQ, CD, BW, VL
  found.avx512 = found.avx2 && os_zmm && (b7 & v4) == v4;
  found.avx512_bf16 = found.avx512 && vnni && ((a71 >> 5) & 1);
  const bool amx = ((d7 >> 22) & 1) && ((d7 >> 24) & 1);  // AMX-BF16, AMX-TILE
  found.amx_bf16 = found.avx512_bf16 && os_tiles && amx && request_amx();
  return found;
}

const Features& features() {
  static const Features found = read_features();
  return found;
}
#endif

std::string read_model() {
  std::string model;
#if defined(__x86_64__)
  uint32_t words[12] = {};
  bool known = true;
  for (uint32_t i = 0; i < 3; ++i)
    known = known && __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
  if (known) model.assign(reinterpret_cast<const char*>(words), strnlen(reinterpret_cast<const char*>(words), sizeof(words)));
  while (!model.empty() && model.back() == ' ') model.pop_back();
#elif defined(__aarch64__)
  model = "arm64";
#endif
  return model.empty() ? "unknown" : model;
}

// Processors in the affinity mask, less what the control group's quota allows.
int count_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "re")) {
    long quota = 0, period = 0;
    if (std::fscanf(file, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
      const int allowed = static_cast<int>((quota + period - 1) / period);
      if (allowed < count) count = allowed;
    }
    std::fclose(file);
  }
  return count > 0 ? count : 1;
}

int64_t cache_bytes(int name) {
  const long bytes = sysconf(name);
  return bytes > 0 ? bytes : 0;
}

CpuInfo read_info() {
  CpuInfo info;
  info.model = read_model();
  info.processors = count_processors();
  info.l1d_bytes = cache_bytes(_SC_LEVEL1_DCACHE_SIZE);
  info.l2_bytes = cache_bytes(_SC_LEVEL2_CACHE_SIZE);
  info.l3_bytes = cache_bytes(_SC_LEVEL3_CACHE_SIZE);
  return info;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::baseline:
      return "baseline";
    case Isa::neon:
      return "neon";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::amx_bf16:
      return "amx_bf16";
  }
  return "unknown";
}

bool isa_available(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::baseline:
      return true;
    case Isa::avx2:
      return features().avx2;
    case Isa::avx512:
      return features().avx512;
    case Isa::avx512_bf16:
      return features().avx512_bf16;
    case Isa::amx_bf16:
      return features().amx_bf16;
    case Isa::neon:
      return false;
  }
  return false;
#elif defined(__aarch64__)
  return isa == Isa::baseline || isa == Isa::neon;
#else
  return isa == Isa::baseline;
#endif
}

const char* available_isa_name(int index) {
  for (const Isa isa : kAll)
    if (isa_available(isa) && index-- == 0) return isa_name(isa);
  return nullptr;
}

bool find_isa(const char* name, Isa* isa) {
  for (int i = 0; i < kNumIsas; ++i)
    if (std::strcmp(name, isa_name(kAll[i])) == 0) {
      *isa = kAll[i];
      return true;
    }
  return false;
}

const CpuInfo& cpu_info() {
  static const CpuInfo info = read_info();
  return info;
}

std::string cpu_text() {
  const CpuInfo& info = cpu_info();
  std::string isas;
  for (int i = 0; available_isa_name(i); ++i) isas += std::string(i ? " " : "") + available_isa_name(i);
  return format_text("model: %s\nprocessors: %d\ninstruction sets: %s\nl1d_bytes: %lld\nl2_bytes: %lld\nl3_bytes: %lld\n",
                     info.model.c_str(), info.processors, isas.c_str(), static_cast<long long>(info.l1d_bytes),
                     static_cast<long long>(info.l2_bytes), static_cast<long long>(info.l3_bytes));
}

}  // namespace flash_attn::cpu
