// See source.h. The text around the fields.
#include "cuda/jit/source.h"

namespace flash_attn::cuda {

std::string arch_name(int compute_capability) {
  // From 9.0 on, matrix instructions exist only in code for the exact architecture.
  return "sm_" + std::to_string(compute_capability) + (compute_capability >= 90 ? "a" : "");
}

std::string unit_text(const KernelForm& form, const void* config, const std::string& initialisers) {
  const std::string type = form.config_type;
  std::string text = std::string("#include \"") + form.header + "\"\nnamespace flash_attn::cuda {\n";
  text += "constexpr " + type + " kConfig{\n" + initialisers + "};\n";
  text += "struct Config {\n  static constexpr " + type + " value = kConfig;\n};\n";
  if (form.generate) text += form.generate(config);
  text += std::string("extern \"C\" __global__ void ") + form.attributes + " " + form.name + "(" + form.parameters + ") {\n";
  text += std::string("  ") + form.body + "\n}\n}  // namespace flash_attn::cuda\n";
  return text;
}

}  // namespace flash_attn::cuda
