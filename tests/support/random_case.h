// Random valid problems: any combination of features that the description allows, small enough for the oracle.
#pragma once

#include "tests/cases.h"
#include "tests/support/random.h"

namespace flash_attn::test {

CaseSpec random_case(Random* random);
CaseSpec random_backward_case(Random* random);

}  // namespace flash_attn::test
