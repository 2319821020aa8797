// The masks as the run-time compiler of GPU kernels reads them, for mask_test.cpp to compare with the host's.
#define __CUDACC_RTC__
#include "math/mask.h"

namespace flash_attn::test {

KeyInterval device_key_interval(const MaskRule& rule, long long i) { return key_interval(rule, i); }

}  // namespace flash_attn::test
