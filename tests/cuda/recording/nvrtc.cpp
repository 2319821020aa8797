// A stand-in for libnvrtc.so.13 that takes no time: what it returns as code is no code, only enough for the recording driver.
#include <cstddef>
#include <cstring>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

constexpr char kCode[] =
    "\x7f"
    "ELF of nothing";
int one_program;

}  // namespace

EXPORTED int nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return 0;
}
EXPORTED int nvrtcGetNumSupportedArchs(int* count) {
  *count = 0;  // any
  return 0;
}
EXPORTED int nvrtcGetSupportedArchs(int*) { return 0; }
EXPORTED const char* nvrtcGetErrorString(int) { return "no error"; }
EXPORTED int nvrtcCreateProgram(void** program, const char*, const char*, int, const char* const*, const char* const*) {
  *program = &one_program;
  return 0;
}
EXPORTED int nvrtcDestroyProgram(void** program) {
  *program = nullptr;
  return 0;
}
EXPORTED int nvrtcCompileProgram(void*, int, const char* const*) { return 0; }
EXPORTED int nvrtcGetProgramLogSize(void*, size_t* size) {
  *size = 1;
  return 0;
}
EXPORTED int nvrtcGetProgramLog(void*, char* log) {
  *log = 0;
  return 0;
}
EXPORTED int nvrtcGetCUBINSize(void*, size_t* size) {
  *size = sizeof kCode;
  return 0;
}
EXPORTED int nvrtcGetCUBIN(void*, char* code) {
  std::memcpy(code, kCode, sizeof kCode);
  return 0;
}
