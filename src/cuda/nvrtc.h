// NVIDIA's run-time compiler, opened at run time: which library serves, and its functions. Needs no driver and no GPU; knows
// nothing of kernels.
#pragma once

#include "core/status.h"

#include <string>

namespace flash_attn::cuda {

using NvrtcResult = int;
using NvrtcProgram = struct NvrtcProgramTag*;

constexpr NvrtcResult kNvrtcSuccess = 0;
constexpr NvrtcResult kNvrtcCompilationFailed = 6;

#define FA_NVRTC_FUNCTIONS(X)                                                                                   \
  X(nvrtcVersion, (int*, int*))                                                                                 \
  X(nvrtcGetNumSupportedArchs, (int*))                                                                          \
  X(nvrtcGetSupportedArchs, (int*))                                                                             \
  X(nvrtcCreateProgram, (NvrtcProgram*, const char*, const char*, int, const char* const*, const char* const*)) \
  X(nvrtcDestroyProgram, (NvrtcProgram*))                                                                       \
  X(nvrtcCompileProgram, (NvrtcProgram, int, const char* const*))                                               \
  X(nvrtcGetProgramLogSize, (NvrtcProgram, size_t*))                                                            \
  X(nvrtcGetProgramLog, (NvrtcProgram, char*))                                                                  \
  X(nvrtcGetCUBINSize, (NvrtcProgram, size_t*))                                                                 \
  X(nvrtcGetCUBIN, (NvrtcProgram, char*))

struct Nvrtc {
  int version = 0;   // 13000: CUDA 13.0
  std::string path;  // of the file
#define FA_NVRTC_POINTER(name, parameters) NvrtcResult(*name) parameters = nullptr;
  FA_NVRTC_FUNCTIONS(FA_NVRTC_POINTER)
#undef FA_NVRTC_POINTER
  const char* (*nvrtcGetErrorString)(NvrtcResult) = nullptr;
};

// Finds and opens a compiler. `choice` is what FLASH_ATTN_NVRTC says: a library, a folder with one, "none" to hide every compiler,
// or null to look in the usual places for the newest one that is no newer, by major version, than `driver_version` (0: any).
Status open_nvrtc(const char* choice, int driver_version, Nvrtc* nvrtc);

// The process's compiler, by the environment and the driver as they are at the first call.
Status get_nvrtc(const Nvrtc** nvrtc);

}  // namespace flash_attn::cuda
