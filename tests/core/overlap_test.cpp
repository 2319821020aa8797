// The overlap of strided regions, against sets of bytes: exhaustive over small random layouts, and by name for those met in
// practice.
#include "core/overlap.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace flash_attn {
namespace {

std::vector<uintptr_t> bytes_of(const Region& region) {
  std::vector<uintptr_t> bytes;
  for (int64_t i = 0; i < region.extent[0]; ++i) {
    for (int64_t j = 0; j < region.extent[1]; ++j) {
      for (int64_t k = 0; k < region.extent[2]; ++k) {
        const int64_t offset = i * region.stride_bytes[0] + j * region.stride_bytes[1] + k * region.stride_bytes[2];
        for (int64_t byte = 0; byte < region.block_bytes; ++byte)
          bytes.push_back(region.base + static_cast<uintptr_t>(offset + byte));
      }
    }
  }
  return bytes;
}

Region random_region(std::mt19937* random) {
  const auto draw = [random](int most) { return static_cast<int64_t>((*random)() % static_cast<unsigned>(most + 1)); };
  Region region;
  region.base = static_cast<uintptr_t>(1000 + draw(60));
  region.block_bytes = 1 + draw(4);
  for (int m = 0; m < Region::kAxes; ++m) {
    region.extent[m] = draw(9) == 0 ? 0 : 1 + draw(3);
    region.stride_bytes[m] = draw(30);
  }
  return region;
}

TEST(Overlap, AgreesWithSetsOfBytes) {
  constexpr unsigned kSeed = 1;
  std::mt19937 random(kSeed);
  int met = 0, apart_inside = 0;
  for (int round = 0; round < 20000; ++round) {
    const Region a = random_region(&random);
    const Region b = random_region(&random);
    const std::vector<uintptr_t> a_list = bytes_of(a);
    const std::set<uintptr_t> a_bytes(a_list.begin(), a_list.end());
    bool expected = false;
    for (const uintptr_t byte : bytes_of(b)) expected = expected || a_bytes.count(byte) != 0;
    ASSERT_EQ(overlaps(a, b), expected) << "seed " << kSeed << ", round " << round;
    ASSERT_EQ(overlaps(b, a), expected) << "seed " << kSeed << ", round " << round;
    ASSERT_EQ(overlaps_itself(a), a_bytes.size() != a_list.size()) << "seed " << kSeed << ", round " << round;
    const bool spans_meet = !a_list.empty() && b.span_bytes() != 0 &&
                            *a_bytes.begin() < b.base + static_cast<uintptr_t>(b.span_bytes()) && b.base <= *a_bytes.rbegin();
    met += expected ? 1 : 0;
    apart_inside += spans_meet && !expected ? 1 : 0;
  }
  EXPECT_GT(met, 1000);
  EXPECT_GT(apart_inside, 500);  // the draw must contain what only an exact answer gets right
}

// [b, s, slots, h, d] floats; each slot is one tensor.
Region slot(int64_t index, int64_t d) {
  constexpr int64_t kSlots = 4, kHeads = 16, kRows = 1000;
  Region region;
  region.base = 0x10000 + static_cast<uintptr_t>(index * kHeads * d * 4);
  region.block_bytes = d * 4;
  const int64_t row = kSlots * kHeads * d * 4;
  const int64_t extents[3] = {8, kRows, kHeads};
  const int64_t strides[3] = {kRows * row, row, d * 4};
  for (int m = 0; m < 3; ++m) {
    region.extent[m] = extents[m];
    region.stride_bytes[m] = strides[m];
  }
  return region;
}

TEST(Overlap, SlotsOfAPackedBufferAreApart) {
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) EXPECT_EQ(overlaps(slot(i, 64), slot(j, 64)), i == j);
  }
  Region shifted = slot(1, 64);
  shifted.base += 4;
  EXPECT_TRUE(overlaps(shifted, slot(1, 64)));
  EXPECT_TRUE(overlaps(shifted, slot(2, 64)));
  EXPECT_FALSE(overlaps(shifted, slot(0, 64)));
}

TEST(Overlap, ContrivedStridesEndInTheCautiousAnswer) {
  Region a;
  a.base = 1;
  a.block_bytes = 1;
  Region b = a;
  b.base = 2;
  const int64_t strides[3] = {3000017, 3000029, 3000047};
  for (int m = 0; m < 3; ++m) {
    a.extent[m] = b.extent[m] = 1 << 30;
    a.stride_bytes[m] = 2 * strides[m];
    b.stride_bytes[m] = 2 * (strides[m] + 6);
  }
  EXPECT_TRUE(overlaps(a, b));  // all strides are even and the bases differ by 1: apart, but the search is bounded
}

}  // namespace
}  // namespace flash_attn
