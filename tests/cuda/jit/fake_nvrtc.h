// A stand-in for the run-time compiler, for tests of what lies around it: counts compilations, takes time on demand, and turns each
// text into "code" from which the test can tell what was compiled.
#pragma once

#include "cuda/nvrtc.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

namespace flash_attn::cuda::fake {

struct Program {
  std::string text, log, code;
};

inline std::atomic<int> compilations{0};
inline std::atomic<int> running{0};
inline std::atomic<int> most_running{0};
inline std::atomic<int> delay_ms{0};
inline std::atomic<int> version{13000};

inline Program* program(NvrtcProgram handle) { return reinterpret_cast<Program*>(handle); }

inline NvrtcResult create(NvrtcProgram* handle, const char* text, const char*, int count, const char* const* headers,
                          const char* const*) {
  auto* made = new Program{text, {}, {}};
  for (int i = 0; i < count; ++i) made->text += headers[i];
  *handle = reinterpret_cast<NvrtcProgram>(made);
  return kNvrtcSuccess;
}

inline NvrtcResult destroy(NvrtcProgram* handle) {
  delete program(*handle);
  *handle = nullptr;
  return kNvrtcSuccess;
}

inline NvrtcResult compile(NvrtcProgram handle, int count, const char* const* options) {
  ++compilations;
  const int now = ++running;
  for (int most = most_running; now > most && !most_running.compare_exchange_weak(most, now);) {
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
  --running;
  Program& made = *program(handle);
  if (made.text.find("#error") != std::string::npos) {
    made.log = "toy.cu(1): error: #error directive";
    return kNvrtcCompilationFailed;
  }
  made.code = "code of " + made.text;
  for (int i = 0; i < count; ++i) made.code += std::string(" ") + options[i];
  made.log =
      "ptxas info    : Compiling entry function 'toy' for 'sm_90a'\nptxas info    : Used 40 registers, used 1 barriers, 64 bytes "
      "smem\n";
  return kNvrtcSuccess;
}

inline const Nvrtc& nvrtc() {
  static const Nvrtc table = [] {
    Nvrtc made;
    made.path = "fake";
    made.nvrtcGetNumSupportedArchs = [](int* count) {
      *count = 2;
      return kNvrtcSuccess;
    };
    made.nvrtcGetSupportedArchs = [](int* archs) {
      archs[0] = 80;
      archs[1] = 90;
      return kNvrtcSuccess;
    };
    made.nvrtcCreateProgram = create;
    made.nvrtcDestroyProgram = destroy;
    made.nvrtcCompileProgram = compile;
    made.nvrtcGetProgramLogSize = [](NvrtcProgram handle, size_t* size) {
      *size = program(handle)->log.size() + 1;
      return kNvrtcSuccess;
    };
    made.nvrtcGetProgramLog = [](NvrtcProgram handle, char* log) {
      std::strcpy(log, program(handle)->log.c_str());
      return kNvrtcSuccess;
    };
    made.nvrtcGetCUBINSize = [](NvrtcProgram handle, size_t* size) {
      *size = program(handle)->code.size();
      return kNvrtcSuccess;
    };
    made.nvrtcGetCUBIN = [](NvrtcProgram handle, char* code) {
      std::memcpy(code, program(handle)->code.data(), program(handle)->code.size());
      return kNvrtcSuccess;
    };
    made.nvrtcGetErrorString = [](NvrtcResult) -> const char* { return "FAKE_ERROR"; };
    return made;
  }();
  return table;
}

// As StoreSettings::nvrtc.
inline Status provide(const Nvrtc** table) {
  static thread_local Nvrtc current;
  current = nvrtc();
  current.version = version;
  *table = &current;
  return {};
}

inline Status hidden(const Nvrtc** table) {
  static Nvrtc none;
  *table = nullptr;
  return open_nvrtc("none", 0, &none);
}

inline void reset() {
  compilations = 0;
  most_running = 0;
  delay_ms = 0;
  version = 13000;
}

}  // namespace flash_attn::cuda::fake
