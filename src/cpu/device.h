// What this CPU offers: instruction sets, caches, processors. Read once with CPUID (or the auxiliary vector on arm64).
#pragma once

#include <cstdint>
#include <string>

namespace flash_attn::cpu {

// In order of preference, best last. A kernel table exists for each level that the build's architecture knows.
enum class Isa : int { baseline, neon, avx2, avx512, avx512_bf16, amx_bf16 };

const char* isa_name(Isa isa);

// Is the level usable here: compiled in, in CPUID, enabled by the operating system (for AMX: granted to this process)?
bool isa_available(Isa isa);

// Names of the usable levels, best first; nullptr past the last.
const char* available_isa_name(int index);

// Look an ISA up by name among all levels; false if unknown.
bool find_isa(const char* name, Isa* isa);

struct CpuInfo {
  std::string model;
  int processors = 1;  // that this process may run on
  int64_t l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;
};

const CpuInfo& cpu_info();
std::string cpu_text();

}  // namespace flash_attn::cpu
