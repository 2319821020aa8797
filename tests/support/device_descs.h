// A case's descriptions for a GPU, one for each of its dtypes, without data: for planning and compiling.
#pragma once

#include "tests/cases.h"

#include <vector>

namespace flash_attn::test {

std::vector<fa_attention_desc> device_descs(const CaseSpec& spec);

}  // namespace flash_attn::test
