// See source.h. The text around the fields.
#include "cuda/jit/source.h"

namespace flash_attn::cuda {

std::string arch_name(int compute_capability) {
  // From 9.0 on, matrix instructions exist only in code for the exact architecture.
  return "sm_" + std::to_string(compute_capability) + (compute_capability >= 90 ? "a" : "");
}

std::string unit_text(const KernelForm& form, const std::string& initialisers) {
  std::string text = std::string("#include \"") + form.header + "\"\n";
  text += "namespace flash_attn::cuda {\n";
  text += std::string("constexpr ") + form.config_type + " kConfig{\n" + initialisers + "};\n";
  text += std::string("extern \"C\" __global__ void ") + form.attributes + " " + form.name + "(" + form.parameters + ") {\n";
  text += std::string("  ") + form.function + "<kConfig>(" + form.arguments + ");\n}\n";
  text += "}  // namespace flash_attn::cuda\n";
  return text;
}

}  // namespace flash_attn::cuda
