// A stand-in for libnvrtc.so.13: compiles a kernel's text for the host, as a library that runs it block by block. The driver
// stand-in loads it. Headers come from the source tree, those of ptx/ from here.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

struct Program {
  std::string text, entry, log, code;
};

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Matrix instructions are text that only the GPU's assembler reads; the host gets structs that do the same.
std::string without_instructions(std::string text) {
  const std::string begin = "template <>\nstruct Wgmma<", end = "\n};\n";
  for (size_t at = text.find(begin); at != std::string::npos; at = text.find(begin, at + 1)) {
    const size_t stop = text.find(end, at);
    const std::string columns = text.substr(at + begin.size(), text.find('>', at + begin.size()) - at - begin.size());
    const bool is_bf16 = text.substr(at, stop - at).find("f32.bf16.bf16") != std::string::npos;
    text.replace(at, stop + end.size() - at,
                 "template <> struct Wgmma<" + columns + "> : EmulatedWgmma<" + columns + ", DType::" + (is_bf16 ? "bf16" : "f16") +
                     "> {};\n");
  }
  return text;
}

// The kernel's unit, and the loop over its blocks. A kernel takes its parameters as one struct.
std::string host_unit(const Program& program) {
  return "#include \"emulated_block.h\"\n" + without_instructions(program.text) +
         "\ntemplate <class Params> Params params_of(void (*)(const Params));\nextern \"C\" void run_grid(unsigned threads, "
         "unsigned blocks, const void* params) {\n"
         "  gridDim = {blocks, 1, 1};\n"
         "  for (unsigned n = 0; n < blocks; ++n) {\n"
         "    blockIdx = {n, 0, 0};\n"
         "    emulated::run_block(threads, [](const void* p) {\n"
         "      using Params = decltype(params_of(flash_attn::cuda::" +
         program.entry + "));\n      flash_attn::cuda::" + program.entry +
         "(*static_cast<const Params*>(p));\n"
         "    }, params);\n"
         "  }\n"
         "}\n";
}

std::string temporary_base() {
  static std::atomic<int> count{0};
  const char* folder = std::getenv("TMPDIR");
  return std::string(folder && *folder ? folder : "/tmp") + "/emulated-" + std::to_string(getpid()) + "-" + std::to_string(count++);
}

}  // namespace

EXPORTED int nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return 0;
}
EXPORTED int nvrtcGetNumSupportedArchs(int* count) {
  *count = 1;
  return 0;
}
EXPORTED int nvrtcGetSupportedArchs(int* archs) {
  archs[0] = 90;
  return 0;
}
EXPORTED const char* nvrtcGetErrorString(int) { return "the host compiler failed"; }
EXPORTED int nvrtcCreateProgram(Program** program, const char* text, const char* name, int, const char* const*,
                                const char* const*) {
  const std::string file = name;
  *program = new Program{text, file.substr(0, file.find('.')), {}, {}};
  return 0;
}
EXPORTED int nvrtcDestroyProgram(Program** program) {
  delete *program;
  *program = nullptr;
  return 0;
}
EXPORTED int nvrtcCompileProgram(Program* program, int, const char* const*) {
  const std::string base = temporary_base();
  std::ofstream(base + ".cpp") << host_unit(*program);
  const std::string command = EMULATED_COMPILER " -std=c++20 -O1 -w -shared -fPIC -I" EMULATED_SOURCE_DIR
                                                "/tests/cuda/emulated/include -I" EMULATED_SOURCE_DIR "/src -o " +
                              base + ".so " + base + ".cpp " EMULATED_BLOCK_OBJECT " 2> " + base + ".log";
  const int result = std::system(command.c_str());
  program->log = read_file(base + ".log");
  program->code = read_file(base + ".so");
  for (const char* suffix : {".cpp", ".so", ".log"}) unlink((base + suffix).c_str());
  return result == 0 ? 0 : 6;
}
EXPORTED int nvrtcGetProgramLogSize(Program* program, size_t* size) {
  *size = program->log.size() + 1;
  return 0;
}
EXPORTED int nvrtcGetProgramLog(Program* program, char* log) {
  std::memcpy(log, program->log.c_str(), program->log.size() + 1);
  return 0;
}
EXPORTED int nvrtcGetCUBINSize(Program* program, size_t* size) {
  *size = program->code.size();
  return 0;
}
EXPORTED int nvrtcGetCUBIN(Program* program, char* code) {
  std::memcpy(code, program->code.data(), program->code.size());
  return 0;
}
