// The problems that serving and training engines bring, as descriptions: the default set of `flash-attn compile`. What a kernel's
// code depends on is covered; lengths, batches and heads only as far as a planner may choose by them. Knows no kernel.
#pragma once

#include "flash_attn/flash_attn.h"

#include <vector>

namespace flash_attn::tool {

std::vector<fa_attention_desc> serving_cases();

}  // namespace flash_attn::tool
