// Element types as the oracle reads and writes them: every value goes through double. Own conversions, so that a fault of the
// library's cannot hide here.
#pragma once

#include "flash_attn/flash_attn.h"

#include <cstdint>

namespace flash_attn::oracle {

// Element `index` of an array of f32, f16 or bf16.
double load_value(const void* base, fa_dtype dtype, int64_t index);
void store_value(void* base, fa_dtype dtype, int64_t index, float value);

// The value after a round trip through a type: rounded to nearest, ties to even.
float round_value(fa_dtype dtype, float value);

}  // namespace flash_attn::oracle
