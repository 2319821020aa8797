// Text of the matrix instructions that a Hopper kernel needs: one struct Wgmma<columns> for each tile width, since an instruction
// names each of its registers and no template can.
#pragma once

#include "math/types.h"

#include <string>

namespace flash_attn::cuda {

// template <> struct Wgmma<columns> with m64 n<columns> k16 products of a 16-bit dtype into fp32:
//   ss(d, a, b, accumulates)   both operands in shared memory, by descriptors (low and high words); b has its depth contiguous
//   rs(d, a, b, accumulates)   a in registers; b has its columns contiguous
std::string wgmma_text(int columns, DType dtype);

// The same with what a backward needs beside it:
//   ss_start(d, a, b)                  as ss, into registers that need not hold anything yet
//   ss_columns(d, a, b, accumulates)   as ss, but b has its columns contiguous; and ss_columns_start
std::string wgmma_backward_text(int columns, DType dtype);

}  // namespace flash_attn::cuda
