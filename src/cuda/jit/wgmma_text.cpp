// See wgmma_text.h. Operand numbers: the accumulators first, then a, then b, then the predicate (PTX ISA, "wgmma.mma_async").
#include "cuda/jit/wgmma_text.h"

namespace flash_attn::cuda {
namespace {

std::string numbered(int begin, int end) {
  std::string text;
  for (int i = begin; i < end; ++i) text += (i > begin ? ", %" : "%") + std::to_string(i);
  return text;
}

struct Operand {
  std::string parameters;  // of the function
  std::string constraints;
  std::string text;   // in the instruction
  std::string setup;  // instructions before it
  int count;          // registers
};

std::string product(const char* name, int columns, const std::string& type, const Operand& a, const char* layout) {
  const int registers = columns / 2, b = registers + a.count;
  const auto operand = [](int number) { return "%" + std::to_string(number); };
  std::string outputs;
  for (int i = 0; i < registers; ++i) outputs += (i ? ", \"+f\"(d[" : "\"+f\"(d[") + std::to_string(i) + "])";
  std::string text = "  static __device__ __forceinline__ void " + std::string(name) + "(float (&d)[" + std::to_string(registers) +
                     "], " + a.parameters + ", unsigned b_low, unsigned b_high, int accumulates) {\n";
  text += "    asm volatile(\"{\\n.reg .pred p;\\n.reg .b64 da, db;\\n" + a.setup + "mov.b64 db, {" + operand(b) + ", " +
          operand(b + 1) + "};\\nsetp.ne.b32 p, " + operand(b + 2) + ", 0;\\n\"\n";
  text += "      \"wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) + "k16.f32." + type + "." + type + " {" +
          numbered(0, registers) + "}, " + a.text + ", db, p, 1, 1, " + layout + ";\\n}\\n\"\n";
  text += "      : " + outputs + "\n      : " + a.constraints + ", \"r\"(b_low), \"r\"(b_high), \"r\"(accumulates));\n  }\n";
  return text;
}

}  // namespace

std::string wgmma_text(int columns, DType dtype) {
  const int r = columns / 2;
  const std::string type = dtype == DType::bf16 ? "bf16" : "f16";
  const Operand in_shared{"unsigned a_low, unsigned a_high", "\"r\"(a_low), \"r\"(a_high)", "da",
                          "mov.b64 da, {%" + std::to_string(r) + ", %" + std::to_string(r + 1) + "};\\n", 2};
  const Operand in_registers{"unsigned a0, unsigned a1, unsigned a2, unsigned a3", "\"r\"(a0), \"r\"(a1), \"r\"(a2), \"r\"(a3)",
                             "{" + numbered(r, r + 4) + "}", "", 4};
  return "template <>\nstruct Wgmma<" + std::to_string(columns) + "> {\n" + product("ss", columns, type, in_shared, "0, 0") +
         product("rs", columns, type, in_registers, "1") + "};\n";
}

}  // namespace flash_attn::cuda
