// Counts of what really ran: feature x dtype x kernel x instruction set. Each test program appends its counts to the file named by
// FLASH_ATTN_COVERAGE_FILE when it ends; coverage_report turns the file into docs/coverage.md.
#pragma once

#include "tests/cases.h"

#include <string>

namespace flash_attn::test {

// Of a kernel and an instruction set that were both forced by name; other runs do not count.
void count_run(const CaseSpec& spec, fa_dtype dtype, const std::string& kernel, const std::string& isa);
// A kernel forced by name said that it does not serve the case.
void count_refusal(const CaseSpec& spec, fa_dtype dtype, const std::string& kernel, const std::string& isa);

}  // namespace flash_attn::test
