// Two unsigned 16-bit numbers in a word, compared at once (PTX ISA, "Integer Arithmetic Instructions", .u16x2: from sm_90 on), and
// picked apart.
#pragma once

namespace flash_attn::cuda {

// All ones in each half of x that is less than `limit`, which is 0x8000 at most.
__device__ __forceinline__ unsigned halves_below(unsigned x, unsigned limit) {
  unsigned y;
  asm("{\n.reg .b32 a;\nmin.u16x2 a, %1, %2;\nadd.s16x2 a, a, %3;\nmax.s16x2 %0, a, %4;\n}"
      : "=r"(y)
      : "r"(x), "r"(limit * 0x00010001u), "r"((0u - limit & 0xffffu) * 0x00010001u), "r"(0xffffffffu));
  return y;
}

// All ones in each half of x that is `last` at most. Takes any limit: differences are not signed.
__device__ __forceinline__ unsigned halves_up_to(unsigned x, unsigned last) {
  unsigned y;
  asm("{\n.reg .b32 a;\nmax.u16x2 a, %1, %2;\nsub.u32 a, a, %2;\nmin.u16x2 %0, a, %3;\n}"
      : "=r"(y)
      : "r"(x), "r"(last * 0x00010001u), "r"(0x00010001u));
  return ~(y * 0xffffu);
}

// Four of the bytes of x (numbered 0 to 3) and y (4 to 7), named by the digits of `selector` (PTX ISA, "prmt").
__device__ __forceinline__ unsigned pick_bytes(unsigned x, unsigned y, unsigned selector) {
  unsigned z;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(z) : "r"(x), "r"(y), "r"(selector));
  return z;
}

}  // namespace flash_attn::cuda
