// What happens to a panel's raw scores before the softmax: scale, softcap, ALiBi, bias, and every kind of mask. Plain calls run
// none of it, and causal ones only where a block crosses an edge. Included inside an instruction set's namespace, after
// rows_access.h.

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
#define FA_MINUS_INFINITY (-__builtin_inff())

// The rows of one panel, lane by lane; lanes past the last row have an empty interval.
struct LaneRows {
  const int32_t* lo;        // first visible key of the window
  const int32_t* hi;        // one past the last
  const int32_t* first;     // keys below this are visible too
  const int32_t* diagonal;  // i + delta
  const float* slope;       // ALiBi
};

// Query and query head of a stacked row.
struct RowPlace {
  int64_t i, head;
};
FA_INLINE RowPlace place_of(const ForwardParams& p, int64_t head_k, int64_t row) {
  return {row / p.group, head_k * p.group + row % p.group};
}

// A panel's exponentials: weight = 2^((score - top) * factor). The difference is taken first, so that the largest score weighs
// exactly 1 however large it is.
struct WeightRule {
  Vec factor, floor;

  explicit WeightRule(float f) : factor(set1(f)), floor(set1(-127.0f / f)) {}

  template <int kDegree>
  __attribute__((always_inline)) Vec weigh(Vec score, Vec top) const {
    return exp2_scaled<kDegree>(maximum(floor, score - top), factor);
  }
};

// Do scores need more than the factor scale * log2(e) folded into the exponential? Negative scales do: the maximum would flip.
FA_INLINE bool needs_score_pass(const ForwardParams& p, const Request& r) {
  return p.softcap > 0 || p.alibi || p.bias || p.mask || r.is_tree || !(p.scale > 1e-30f);
}

// Hide what a boolean mask or the tree's bits hide from row (i, head): write -inf to the keys [j, j + keys), `step` floats apart.
static void hide_by_bits(const ForwardParams& p, const Request& r, RowPlace row, int64_t j, int64_t keys, float* at, int64_t step) {
  if (p.mask) {
    const uint8_t* bytes = p.mask + bias_offset(p.mask_axes, r, row.i, row.head);
    for (int64_t x = 0; x < keys; ++x)
      if (!bytes[(j + x) * p.mask_axes.key]) at[x * step] = FA_MINUS_INFINITY;
  }
  if (r.is_tree) {
    const auto* words =
        reinterpret_cast<const unsigned long long*>(p.tree) + r.index * p.tree_batch_stride + (r.q_row + row.i) * p.tree_row_stride;
    for (int64_t x = j < r.tree_prefix ? r.tree_prefix - j : 0; x < keys; ++x)
      if (!tree_visible(words, r.tree_prefix, j + x)) at[x * step] = FA_MINUS_INFINITY;
  }
}

// Fill extra[key][lane] with bias, and -inf where a mask or tree hides the key, for keys [j, j + keys).
static void fill_extra(const ForwardParams& p, const Request& r, int64_t head_k, int64_t row_begin, int rows, int lanes, int64_t j,
                       int64_t keys, float* extra) {
  const int64_t bytes = p.bias_dtype == DType::f32 ? 4 : 2;
  const char* bias_rows[64] = {};
  if (p.bias)
    for (int l = 0; l < rows; ++l) {
      const RowPlace row = place_of(p, head_k, row_begin + l);
      bias_rows[l] = p.bias + (bias_offset(p.bias_axes, r, row.i, row.head) + j * p.bias_axes.key) * bytes;
    }
  if (p.bias && p.bias_axes.key == 1) {
    pack_any_transposed(p.bias_dtype, bias_rows, keys, extra, lanes);
  } else {
    for (int l = 0; l < lanes; ++l) {
      float value = 0;
      if (bias_rows[l]) widen_any_row(p.bias_dtype, bias_rows[l], &value, 1);
      for (int64_t x = 0; x < keys; ++x) extra[x * lanes + l] = value;
    }
  }
  for (int l = 0; l < rows; ++l) hide_by_bits(p, r, place_of(p, head_k, row_begin + l), j, keys, extra + l, lanes);
}

FA_INLINE IntVec visible_lanes(const LaneRows& rows, int v, IntVec j) {
  const int at = v * kWidth;
  return ((j >= load_int(rows.lo + at)) & (j < load_int(rows.hi + at))) | (j < load_int(rows.first + at));
}

// Scores become -inf outside their row's interval; the running maximum is taken.
template <int kVectors>
static __attribute__((noinline)) void mask_pass(const LaneRows& rows, int64_t j, int64_t keys, float* scores, Vec* running_top) {
  Vec top[kVectors];
  FA_UNROLL for (int v = 0; v < kVectors; ++v) top[v] = running_top[v];
  const Vec hidden = set1(FA_MINUS_INFINITY);
  for (int64_t x = 0; x < keys; ++x) {
    const IntVec key = set1_int(static_cast<int32_t>(j + x));
    FA_UNROLL for (int v = 0; v < kVectors; ++v) {
      float* at = scores + (x * kVectors + v) * kWidth;
      const Vec score = select(visible_lanes(rows, v, key), load(at), hidden);
      store(at, score);
      top[v] = maximum(top[v], score);
    }
  }
  FA_UNROLL for (int v = 0; v < kVectors; ++v) running_top[v] = top[v];
}

// One vector of raw products to scores in the log2 domain.
FA_INLINE Vec score_of(const ForwardParams& p, Vec product, Vec distance, Vec slope, Vec extra) {
  Vec score = product * set1(p.scale);
  if (p.softcap > 0) score = set1(p.softcap) * tanh_of(score * set1(1.0f / p.softcap));
  if (p.alibi) score = score - slope * distance;
  return (score + extra) * set1(kLog2E);
}

// Everything at once; scores end in the log2 domain. `extra` may be null.
template <int kVectors>
static __attribute__((noinline)) void score_pass(const ForwardParams& p, const LaneRows& rows, int64_t j, int64_t keys,
                                                 bool has_edge, const float* extra, float* scores, Vec* running_top) {
  Vec top[kVectors];
  FA_UNROLL for (int v = 0; v < kVectors; ++v) top[v] = running_top[v];
  const Vec hidden = set1(FA_MINUS_INFINITY);
  for (int64_t x = 0; x < keys; ++x) {
    const IntVec key = set1_int(static_cast<int32_t>(j + x));
    FA_UNROLL for (int v = 0; v < kVectors; ++v) {
      const int64_t at = (x * kVectors + v) * kWidth;
      const Vec distance = absolute(to_float(load_int(rows.diagonal + v * kWidth) - key));
      Vec score = score_of(p, load(scores + at), distance, load(rows.slope + v * kWidth), extra ? load(extra + at) : zero());
      if (has_edge) score = select(visible_lanes(rows, v, key), score, hidden);
      store(scores + at, score);
      top[v] = maximum(top[v], score);
    }
  }
  FA_UNROLL for (int v = 0; v < kVectors; ++v) running_top[v] = top[v];
}

// Bit c of kept[n]: is the weight of row i + 8 n and key (tile * 16 + c) kept? One draw serves both rows; i is a first one of them.
static void draw_kept(const ForwardParams& p, const Request& r, RowPlace row, int64_t tile, uint32_t* kept) {
  kept[0] = kept[1] = 0;
  for (int pair = 0; pair < 4; ++pair) {
    const PhiloxWords words =
        dropout_words(p.dropout, static_cast<unsigned>(r.index), static_cast<unsigned>(row.head), row.i, tile * 16 + 2 * pair);
    for (int n = 0; n < 4; ++n) {
      const int key = n % 2 * 8 + 2 * pair;
      kept[n / 2] |= static_cast<uint32_t>((words.word[n] & 0xFFFFu) >= p.dropout_threshold) << key;
      kept[n / 2] |= static_cast<uint32_t>((words.word[n] >> 16) >= p.dropout_threshold) << (key + 1);
    }
  }
}

static int64_t first_of_pair(int64_t i) { return i - i / 8 % 2 * 8; }

// Zero the dropped weights of row (i, head) among keys [j, j + keys), `step` floats apart.
static void drop_weights(const ForwardParams& p, const Request& r, RowPlace row, int64_t j, int64_t keys, float* at, int64_t step) {
  for (int64_t tile = j / 16; tile * 16 < j + keys; ++tile) {
    uint32_t both[2];
    draw_kept(p, r, {first_of_pair(row.i), row.head}, tile, both);
    const uint32_t kept = both[row.i / 8 % 2];
    const int64_t begin = tile * 16 < j ? j : tile * 16;
    const int64_t end = tile * 16 + 16 < j + keys ? tile * 16 + 16 : j + keys;
    for (int64_t key = begin; key < end; ++key)
      if (!((kept >> (key - tile * 16)) & 1)) at[(key - j) * step] = 0;
  }
}

// keep[key][lane] = `value`, or 0 where the weight is dropped, for `rows` stacked rows of a panel and keys [j, j + keys).
template <int kVectors>
static void fill_keep(const ForwardParams& p, const Request& r, int64_t head_k, int64_t row_begin, int64_t rows, int64_t j,
                      int64_t keys, float value, float* keep) {
  constexpr int64_t lanes = kVectors * kWidth;
  for (int64_t tile = j / 16; tile * 16 < j + keys; ++tile) {
    alignas(64) uint32_t bits[lanes] = {};
    bool is_drawn[lanes] = {};
    for (int64_t l = 0; l < rows; ++l) {
      if (is_drawn[l]) continue;
      const RowPlace row = place_of(p, head_k, row_begin + l);
      uint32_t both[2];
      draw_kept(p, r, {first_of_pair(row.i), row.head}, tile, both);
      bits[l] = both[row.i / 8 % 2];
      const int64_t other = l + 8 * p.group;
      if (row.i / 8 % 2 != 0 || other >= rows) continue;
      bits[other] = both[1];
      is_drawn[other] = true;
    }
    const int64_t begin = tile * 16 < j ? j : tile * 16;
    const int64_t end = tile * 16 + 16 < j + keys ? tile * 16 + 16 : j + keys;
    for (int64_t key = begin; key < end; ++key)
      for (int v = 0; v < kVectors; ++v) {
        const IntVec bit = load_int(reinterpret_cast<int32_t*>(bits) + v * kWidth) & set1_int(1 << (key - tile * 16));
        store(keep + (key - j) * lanes + v * kWidth, select(bit != set1_int(0), set1(value), zero()));
      }
  }
}

// values *= factors, `count` floats of each, a multiple of the vector.
static void multiply_all(float* values, const float* factors, int64_t count) {
  for (int64_t at = 0; at < count; at += kWidth) store(values + at, load(values + at) * load(factors + at));
}

// A finished row: what its accumulator is multiplied by, and its log-sum-exp.
struct RowFinish {
  float factor, lse;
};

// top in the log2 domain; the sink joins the denominator.
static RowFinish finish_row(const ForwardParams& p, int64_t head, float top, float sum) {
  RowFinish finish{0.0f, FA_MINUS_INFINITY};
  if (p.sink) {
    const float sink = p.sink[head] * kLog2E;
    float joint = top > sink ? top : sink;
    joint = joint > -__FLT_MAX__ ? joint : -__FLT_MAX__;
    const float shrink = sum > 0 || sum != sum ? __builtin_exp2f(top - joint) : 0.0f;
    sum = sum * shrink + __builtin_exp2f(sink - joint);
    if (sum == 0) return finish;
    return {p.keep_scale * shrink / sum, (joint + __builtin_log2f(sum)) * kLn2};
  }
  if (sum == 0) return finish;
  return {p.keep_scale / sum, (top + __builtin_log2f(sum)) * kLn2};
}
