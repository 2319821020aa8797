// Names of a case's enumerations, for its text and for the features of the coverage tables.
#pragma once

#include "tests/cases.h"

namespace flash_attn::test {

const char* layout_text(KeyLayout layout);
const char* strides_text(Strides strides);
const char* mask_kind_text(fa_mask_kind kind);
const char* diagonal_text(fa_diagonal diagonal);

}  // namespace flash_attn::test
