// From a configuration to the text of one translation unit. A configuration is a struct of integers, bools and enums whose
// `fields(visitor)` calls visitor("name", member) for each; text, cache key, log line and test name come from that list alone.
#pragma once

#include "cuda/jit/kernel_request.h"

#include <cstdint>
#include <string>
#include <type_traits>

namespace flash_attn::cuda {

// How a kernel's text is put together; one constant beside each kernel's host half. The generated unit is
//   #include "<header>"
//   namespace flash_attn::cuda {
//   constexpr <config_type> kConfig{.field = value, ...};
//   struct Config { static constexpr <config_type> value = kConfig; };
//   <generated text, if the kernel needs some>
//   extern "C" __global__ void <attributes> <name>(<parameters>) { <body> }
//   }
struct KernelForm {
  const char* name;         // of the entry: "sm80_fwd"
  const char* header;       // "cuda/kernels/sm80_fwd.cuh"
  const char* config_type;  // "Sm80ForwardConfig"
  const char* attributes;   // "__launch_bounds__(kConfig.threads(), 1)"
  const char* parameters;   // "const __grid_constant__ ForwardParams params"
  const char* body;         // "run_sm80_fwd<kConfig>(params);"
  // Text that only a program can write, such as one matrix instruction per tile width; null if there is none. Gets the
  // configuration.
  std::string (*generate)(const void* config) = nullptr;
};

// "sm_90a" for 90: the exact architecture, with its own instructions where it has any.
std::string arch_name(int compute_capability);

std::string unit_text(const KernelForm& form, const void* config, const std::string& initialisers);

namespace detail {

template <class Value>
long long field_value(Value value) {
  static_assert(std::is_integral_v<Value> || std::is_enum_v<Value>, "a field is an integer, a bool or an enum");
  return static_cast<long long>(value);
}

template <class Config>
struct InitialiserVisitor {
  const char* config_type;
  std::string text;
  template <class Value>
  void operator()(const char* name, Value value) {
    const std::string number = std::to_string(field_value(value));
    text += "  .";
    text += name;
    if constexpr (std::is_enum_v<Value>)
      text += std::string(" = static_cast<decltype(") + config_type + "::" + name + ")>(" + number + "),\n";
    else if constexpr (std::is_same_v<Value, bool>)
      text += value ? " = true,\n" : " = false,\n";
    else
      text += " = " + number + ",\n";
  }
};

struct NameVisitor {
  std::string text;
  template <class Value>
  void operator()(const char* name, Value value) {
    text += ' ';
    text += name;
    text += '=';
    text += std::to_string(field_value(value));
  }
};

// Writes the fields one after the other; the list of fields is fixed per type, so equal bytes are equal configurations.
struct KeyVisitor {
  MemoryKey* key;
  template <class Value>
  void operator()(const char*, Value value) {
    key->append(field_value(value));
  }
};

}  // namespace detail

// "sm80_fwd d=128 causal=1 ...": for logs and tests.
template <class Config>
std::string config_name(const KernelForm& form, const Config& config) {
  detail::NameVisitor visitor;
  config.fields(visitor);
  return form.name + visitor.text;
}

template <class Config>
KernelRequest kernel_request(const KernelForm& form, const Config& config, int compute_capability) {
  detail::InitialiserVisitor<Config> visitor{form.config_type, {}};
  config.fields(visitor);
  KernelRequest request;
  request.name = config_name(form, config);
  request.entry = form.name;
  request.arch = arch_name(compute_capability);
  request.text = unit_text(form, &config, visitor.text);
  return request;
}

// What finds a loaded kernel again without its text: the form (by address), the architecture and the fields.
template <class Config>
MemoryKey memory_key(const KernelForm& form, const Config& config, int compute_capability) {
  MemoryKey key;
  key.append(static_cast<long long>(reinterpret_cast<uintptr_t>(&form)));
  key.append(compute_capability);
  config.fields(detail::KeyVisitor{&key});
  return key;
}

}  // namespace flash_attn::cuda
