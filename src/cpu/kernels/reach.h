// Which keys the rows of a panel see: each lane's interval, and what a panel's lanes reach together, so that blocks nobody sees are
// skipped and only those that an edge crosses are masked. Included inside an instruction set's namespace, after scores.h.

constexpr int kMaxPanels = 64;

// The keys a panel's lanes reach.
struct PanelReach {
  int64_t lo_min, lo_max, hi_min, hi_max, first_min, first_max;

  int64_t begin() const { return first_max > 0 ? 0 : lo_min; }
  int64_t end() const { return hi_max > first_max ? hi_max : first_max; }
  bool meets(int64_t key_begin, int64_t key_end) const { return key_begin < first_max || (key_end > lo_min && key_begin < hi_max); }
  // Does every lane see all of [key_begin, key_end)?
  bool covers(int64_t key_begin, int64_t key_end) const {
    return (lo_max <= key_begin && hi_min >= key_end) || first_min >= key_end;
  }
};

// One panel over the keys [begin, end) of the open block.
struct PanelStep {
  int64_t n, begin, end;
};

// The rows of a task lane by lane; lanes past the last row have an empty interval.
struct RowSpans {
  int32_t *lo = nullptr, *hi = nullptr, *first = nullptr, *diagonal = nullptr;
  float* slope = nullptr;

  RowSpans() = default;
  // Arrays of `rows` entries each, in memory for five of them.
  RowSpans(char* memory, int64_t rows)
      : lo(reinterpret_cast<int32_t*>(memory)),
        hi(lo + rows),
        first(hi + rows),
        diagonal(first + rows),
        slope(reinterpret_cast<float*>(diagonal + rows)) {}

  void read(const ForwardParams& p, const Request& r, int64_t head_k, int64_t row_begin, int64_t rows, int64_t padded_rows) {
    for (int64_t x = 0; x < padded_rows; ++x) {
      lo[x] = hi[x] = first[x] = diagonal[x] = 0;
      slope[x] = 0;
      if (x >= rows) continue;
      const RowPlace row = place_of(p, head_k, row_begin + x);
      const KeyInterval keys = key_interval(r.rule, row.i);
      lo[x] = static_cast<int32_t>(keys.lo);
      hi[x] = static_cast<int32_t>(keys.hi);
      first[x] = static_cast<int32_t>(keys.first);
      diagonal[x] = static_cast<int32_t>(clamp_to(row.i + r.rule.delta, -(1LL << 30), 1LL << 30));
      if (p.alibi) slope[x] = p.alibi[r.index * p.alibi_batch_stride + row.head];
    }
  }

  LaneRows lanes(int64_t x) const { return {lo + x, hi + x, first + x, diagonal + x, slope + x}; }

  PanelReach reach(int64_t begin, int64_t end) const {
    PanelReach to{INT64_MAX, 0, INT64_MAX, 0, INT64_MAX, 0};
    for (int64_t x = begin; x < end; ++x) {
      if (lo[x] == hi[x] && first[x] == 0) {
        to.hi_min = to.first_min = 0;  // an empty row reaches nothing, and makes every block an edge
        continue;
      }
      to.lo_min = lo[x] < to.lo_min ? lo[x] : to.lo_min;
      to.lo_max = lo[x] > to.lo_max ? lo[x] : to.lo_max;
      to.hi_min = hi[x] < to.hi_min ? hi[x] : to.hi_min;
      to.hi_max = hi[x] > to.hi_max ? hi[x] : to.hi_max;
      to.first_min = first[x] < to.first_min ? first[x] : to.first_min;
      to.first_max = first[x] > to.first_max ? first[x] : to.first_max;
    }
    return to;
  }
};

// The keys [begin, end) that any of the panels sees; begin >= end if there is none.
static void key_hull(const PanelReach* reach, int64_t panels, int64_t* begin, int64_t* end) {
  *begin = INT64_MAX;
  *end = 0;
  for (int64_t n = 0; n < panels; ++n) {
    if (reach[n].end() == 0) continue;
    *begin = reach[n].begin() < *begin ? reach[n].begin() : *begin;
    *end = reach[n].end() > *end ? reach[n].end() : *end;
  }
}

// The panels that meet the keys [begin, end), each with what it sees of them; first keys are multiples of `key_step` from `begin`.
static int meeting_panels(const PanelReach* reach, int64_t panels, int64_t begin, int64_t end, int64_t key_step, PanelStep* steps) {
  int count = 0;
  for (int64_t n = 0; n < panels; ++n) {
    if (!reach[n].meets(begin, end)) continue;
    const int64_t skip = reach[n].begin() > begin ? (reach[n].begin() - begin) / key_step * key_step : 0;
    steps[count++] = {n, begin + skip, reach[n].end() < end ? reach[n].end() : end};
  }
  return count;
}
