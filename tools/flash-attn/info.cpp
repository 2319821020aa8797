// `flash-attn info`: what the library sees of this machine.
#include "commands.h"
#include "engine.h"
#include "errors.h"

#include <cstdio>

namespace flash_attn::tool {
namespace {

void print_names(const char* label, fa_device_type device_type) {
  std::printf("%s:", label);
  int32_t count = 0;
  for (; const char* name = fa_kernel_name(device_type, count); ++count) std::printf(" %s", name);
  std::printf(count == 0 ? " none in this build\n" : "\n");
}

// Devices are asked for one after another until the library has no more; what it says of the first missing one is the reason.
void print_gpus() {
  int count = 0;
  try {
    for (; count < 64; ++count) {
      const std::string text = device_text(FA_DEVICE_CUDA, count);
      std::printf("\nCUDA device %d\n%s", count, text.c_str());
    }
  } catch (const Failure& reason) {
    if (count == 0) std::printf("\nCUDA devices: none (%s)\n", reason.what());
  }
}

}  // namespace

void print_info() {
  const uint32_t version = fa_version();
  std::printf("flash-attn-lib %u.%u.%u\n\nCPU\n%s", version / 10000, version / 100 % 100, version % 100,
              device_text(FA_DEVICE_CPU, 0).c_str());
  std::printf("threads: %d\n", fa_get_num_threads());
  print_names("kernels", FA_DEVICE_CPU);
  print_gpus();
}

}  // namespace flash_attn::tool
