// Counts allocations of the whole process, libraries included. A program that links allocation_count.cpp has malloc and its
// relatives, and mmap, replaced by that file's.
#pragma once

#include <cstdint>

namespace flash_attn::test {

// On every thread, from start_counting() to stop_counting(), which returns how many there were.
void start_counting();
int64_t stop_counting();

}  // namespace flash_attn::test
