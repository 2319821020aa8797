// 2^x by additions and products, for processors on which those are cheaper than their own instruction. The error is relative: below
// 1.1e-4 with a polynomial of degree 3, 3e-6 with 4. Compiles under NVRTC.
#pragma once

#include "math/types.h"

namespace flash_attn {

// -127 <= x <= 127; exactly 0 for -127, exactly 1 for 0, not finite for NaN. x is rounded to a whole number, which lands in the
// lowest bits of a large sum and goes to the exponent; the polynomial covers the half to either side.
template <int kDegree>
FA_HOST_DEVICE float exp2_polynomial(float x) {
  static_assert(kDegree == 3 || kDegree == 4);
  constexpr float kLarge = 12582912.0f;  // 1.5 * 2^23
  const float sum = x + kLarge;
  const float f = x - (sum - kLarge);
  const float y = kDegree == 3 ? (0.0550089329f * f + 0.242210954f) * f + 0.693282902f
                               : ((0.00958285294f * f + 0.0559064262f) * f + 0.240240991f) * f + 0.693124175f;
  const float scale = __builtin_bit_cast(float, (__builtin_bit_cast(unsigned int, sum) << 23) + 0x3F800000u);
  return (y * f) * scale + scale;
}

}  // namespace flash_attn
