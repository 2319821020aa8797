// Emulated: only addresses; kernels that use mbarriers are not emulated.
#pragma once

#include "emulated_block.h"

namespace flash_attn::cuda {

inline unsigned shared_address(const void* p) {
  return static_cast<unsigned>(static_cast<const unsigned char*>(p) - shared_memory);
}

}  // namespace flash_attn::cuda
