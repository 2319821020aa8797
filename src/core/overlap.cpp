// Overlap of strided regions as a bounded integer problem: two blocks meet iff some sum of c[m] * stride[m], with each c[m] in a
// range, falls into an interval. Strides taken in falling order leave one or two candidates an axis in every layout met in
// practice.
#include "core/overlap.h"

#include <algorithm>

namespace flash_attn {
namespace {

constexpr int kSearchSteps = 10000;  // far above any nested layout (at most 3^6); bounds contrived ones

// c * step with low <= c <= high.
struct Axis {
  int64_t step = 0;
  int64_t low = 0;
  int64_t high = 0;
};

int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0 ? 1 : 0); }
int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

class Search {
 public:
  void add(int64_t step, int64_t low, int64_t high) {
    if (step == 0 || (low == 0 && high == 0)) return;
    for (int m = 0; m < count_; ++m) {
      if (axes_[m].step == step) {
        axes_[m].low += low;
        axes_[m].high += high;
        return;
      }
    }
    axes_[count_++] = Axis{step, low, high};
  }

  // Is some sum inside [low, high]?
  bool reaches(int64_t low, int64_t high) {
    std::sort(axes_, axes_ + count_, [](const Axis& a, const Axis& b) { return a.step > b.step; });
    lowest_[count_] = highest_[count_] = 0;
    for (int m = count_ - 1; m >= 0; --m) {
      lowest_[m] = lowest_[m + 1] + axes_[m].low * axes_[m].step;
      highest_[m] = highest_[m + 1] + axes_[m].high * axes_[m].step;
    }
    steps_ = 0;
    return descend(0, low, high);
  }

 private:
  bool descend(int m, int64_t low, int64_t high) {
    if (high < lowest_[m] || low > highest_[m]) return false;
    if (m == count_) return true;
    if (++steps_ > kSearchSteps) return true;
    const Axis& axis = axes_[m];
    const int64_t first = std::max(axis.low, ceil_div(low - highest_[m + 1], axis.step));
    const int64_t last = std::min(axis.high, floor_div(high - lowest_[m + 1], axis.step));
    for (int64_t c = first; c <= last; ++c) {
      if (descend(m + 1, low - c * axis.step, high - c * axis.step)) return true;
    }
    return false;
  }

  Axis axes_[2 * Region::kAxes];
  int64_t lowest_[2 * Region::kAxes + 1] = {};  // least and greatest sum of the axes from m on
  int64_t highest_[2 * Region::kAxes + 1] = {};
  int count_ = 0;
  int steps_ = 0;
};

// The usual layouts: each axis steps over all that the axes after it reach.
bool is_nested(const Region& region) {
  int64_t reach = region.block_bytes;
  for (int m = Region::kAxes - 1; m >= 0; --m) {
    if (region.extent[m] <= 1) continue;
    if (region.stride_bytes[m] < reach) return false;
    reach += (region.extent[m] - 1) * region.stride_bytes[m];
  }
  return true;
}

}  // namespace

bool overlaps(const Region& a, const Region& b) {
  if (!spans_meet(a, a.span_bytes(), b, b.span_bytes())) return false;
  Search search;
  for (int m = 0; m < Region::kAxes; ++m) {
    search.add(a.stride_bytes[m], 0, a.extent[m] - 1);
    search.add(b.stride_bytes[m], -(b.extent[m] - 1), 0);
  }
  const int64_t distance = static_cast<int64_t>(b.base - a.base);
  return search.reaches(distance - (a.block_bytes - 1), distance + (b.block_bytes - 1));
}

bool overlaps_itself(const Region& region) {
  if (region.span_bytes() == 0 || is_nested(region)) return false;
  // Two different indices differ first in some axis; there the difference can be taken positive, and free in the axes after it.
  for (int m = 0; m < Region::kAxes; ++m) {
    if (region.extent[m] <= 1) continue;
    if (region.stride_bytes[m] == 0) return true;
    Search search;
    search.add(region.stride_bytes[m], 1, region.extent[m] - 1);
    for (int n = m + 1; n < Region::kAxes; ++n) {
      search.add(region.stride_bytes[n], -(region.extent[n] - 1), region.extent[n] - 1);
    }
    if (search.reaches(-(region.block_bytes - 1), region.block_bytes - 1)) return true;
  }
  return false;
}

}  // namespace flash_attn
