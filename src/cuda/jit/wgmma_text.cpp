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

// `starts`: into registers that are only written, with a predicate that is false.
std::string product(const char* name, int columns, const std::string& type, const Operand& a, const char* layout,
                    bool starts = false) {
  const int registers = columns / 2, b = registers + a.count;
  const auto operand = [](int number) { return "%" + std::to_string(number); };
  std::string outputs;
  for (int i = 0; i < registers; ++i)
    outputs += std::string(i ? ", " : "") + (starts ? "\"=f\"(d[" : "\"+f\"(d[") + std::to_string(i) + "])";
  std::string text = "  static __device__ __forceinline__ void " + std::string(name) + "(float (&d)[" + std::to_string(registers) +
                     "], " + a.parameters + ", unsigned b_low, unsigned b_high" + (starts ? "" : ", int accumulates") + ") {\n";
  text += "    asm volatile(\"{\\n.reg .pred p;\\n.reg .b64 da, db;\\n" + a.setup + "mov.b64 db, {" + operand(b) + ", " +
          operand(b + 1) + "};\\nsetp.ne.b32 p, " + (starts ? "0" : operand(b + 2)) + ", 0;\\n\"\n";
  text += "      \"wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) + "k16.f32." + type + "." + type + " {" +
          numbered(0, registers) + "}, " + a.text + ", db, p, 1, 1, " + layout + ";\\n}\\n\"\n";
  text += "      : " + outputs + "\n      : " + a.constraints + ", \"r\"(b_low), \"r\"(b_high)" +
          (starts ? "" : ", \"r\"(accumulates)") + ");\n  }\n";
  return text;
}

struct Products {
  std::string type;
  Operand in_shared, in_registers;

  Products(int columns, DType dtype) : type(dtype == DType::bf16 ? "bf16" : "f16") {
    const int r = columns / 2;
    in_shared = {"unsigned a_low, unsigned a_high", "\"r\"(a_low), \"r\"(a_high)", "da",
                 "mov.b64 da, {%" + std::to_string(r) + ", %" + std::to_string(r + 1) + "};\\n", 2};
    in_registers = {"unsigned a0, unsigned a1, unsigned a2, unsigned a3", "\"r\"(a0), \"r\"(a1), \"r\"(a2), \"r\"(a3)",
                    "{" + numbered(r, r + 4) + "}", "", 4};
  }
};

std::string specialisation(int columns, const std::string& members) {
  return "template <>\nstruct Wgmma<" + std::to_string(columns) + "> {\n" + members + "};\n";
}

std::string forward_products(int columns, const Products& from) {
  return product("ss", columns, from.type, from.in_shared, "0, 0") + product("rs", columns, from.type, from.in_registers, "1");
}

}  // namespace

std::string wgmma_text(int columns, DType dtype) {
  return specialisation(columns, forward_products(columns, Products(columns, dtype)));
}

std::string wgmma_backward_text(int columns, DType dtype) {
  const Products from(columns, dtype);
  return specialisation(columns, forward_products(columns, from) +
                                     product("ss_start", columns, from.type, from.in_shared, "0, 0", true) +
                                     product("ss_columns", columns, from.type, from.in_shared, "0, 1") +
                                     product("ss_columns_start", columns, from.type, from.in_shared, "0, 1", true));
}

}  // namespace flash_attn::cuda
