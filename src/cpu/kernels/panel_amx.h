// The products of the panel kernel on AMX tiles, over the same operands as panel_dot2.h but for V, which is transposed once per
// block: S^T = K Q^T takes K's rows as they lie, O^T = V^T P^T takes the weights' pairs. Keys come in steps of 32 (a tile's depth),
// padded with zeros. The matrix unit is so fast that softmax dominates: the running maximum is kept while it is at most 2^8 too
// low, so that O^T is seldom rescaled. Included inside an instruction set's namespace, after panel_dot2.h.

constexpr int kTileRows = 16, kTileDepth = 32;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Not a local: GCC 12's intrinsic tells the compiler of the first 8 bytes only, and the rest of a local's could be dropped as
// unread.
static constexpr TileConfig kTileConfig;

// Tiles 0..3 accumulate, 4 and 5 hold the left operand, 6 and 7 the right one.
struct TileScope {
  TileScope() { _tile_loadconfig(&kTileConfig); }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

// One depth of 32: 32 rows of the left operand times all lanes.
template <int kVectors>
FA_INLINE void tile_step(const char* left, int64_t left_stride, const char* right) {
  constexpr int64_t line = kVectors * 64;
  __asm__ volatile("" ::: "memory");  // GCC's tile loads do not say that they read memory
  _tile_loadd(4, left, left_stride);
  _tile_loadd(6, right, line);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(5, left + kTileRows * left_stride, left_stride);
  _tile_dpbf16ps(1, 5, 6);
  if constexpr (kVectors == 2) {
    _tile_loadd(7, right + 64, line);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

template <int kVectors>
FA_INLINE void zero_tiles() {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kVectors == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
}

template <int kVectors>
FA_INLINE void load_tiles(const char* from) {
  constexpr int64_t line = kVectors * 64;
  _tile_loadd(0, from, line);
  _tile_loadd(1, from + kTileRows * line, line);
  if constexpr (kVectors == 2) {
    _tile_loadd(2, from + 64, line);
    _tile_loadd(3, from + kTileRows * line + 64, line);
  }
}

template <int kVectors>
FA_INLINE void store_tiles(char* to) {
  constexpr int64_t line = kVectors * 64;
  _tile_stored(0, to, line);
  _tile_stored(1, to + kTileRows * line, line);
  if constexpr (kVectors == 2) {
    _tile_stored(2, to + 64, line);
    _tile_stored(3, to + kTileRows * line + 64, line);
  }
}

// A product cut into steps that can be taken one at a time: out [groups * 32][lanes] (+)= left [groups * 32][steps * 32] right.
template <int kVectors>
struct TileProduct {
  const char* left = nullptr;
  int64_t left_stride = 0;  // bytes
  const char* right = nullptr;
  char* out = nullptr;
  int64_t groups = 0, steps = 0;
  bool accumulates = false;
  int64_t group = 0, step = 0;

  int64_t remaining() const { return (groups - group) * steps - step; }

  __attribute__((always_inline)) void take_step() {
    constexpr int64_t line = kVectors * 64;
    char* const group_out = out + group * kTileDepth * line;
    if (step == 0) {
      if (accumulates)
        load_tiles<kVectors>(group_out);
      else
        zero_tiles<kVectors>();
    }
    tile_step<kVectors>(left + group * kTileDepth * left_stride + step * 64, left_stride, right + step * kTileRows * line);
    if (++step < steps) return;
    store_tiles<kVectors>(group_out);
    step = 0;
    ++group;
  }
};

template <int kVectors>
static void take_maximum(const float* scores, int64_t keys, Vec* running_top) {
  Vec top[kVectors];
  FA_UNROLL for (int v = 0; v < kVectors; ++v) top[v] = running_top[v];
  for (int64_t j = 0; j < keys; ++j)
    FA_UNROLL for (int v = 0; v < kVectors; ++v) top[v] = maximum(top[v], load(scores + (j * kVectors + v) * kWidth));
  FA_UNROLL for (int v = 0; v < kVectors; ++v) running_top[v] = top[v];
}

// 16 elements from each of two rows, `count` of them real: pairs (a[x], b[x]) in the lanes.
FA_INLINE Vec pair_rows(const uint16_t* a, const uint16_t* b, int64_t count) {
  alignas(32) uint16_t lanes_a[16] = {}, lanes_b[16] = {};
  if (count < 16) {
    if (a) __builtin_memcpy(lanes_a, a, static_cast<size_t>(count) * 2);
    if (b) __builtin_memcpy(lanes_b, b, static_cast<size_t>(count) * 2);
    a = lanes_a;
    b = lanes_b;
  } else {
    a = a ? a : lanes_a;
    b = b ? b : lanes_b;
  }
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  return reinterpret_cast<Vec>(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

// target[c * stride + key] = V[j + key][c], or K's, for c < rows and keys rounded up to 32; zeros where there is no element.
static __attribute__((noinline)) void transpose_keys(const ForwardParams& p, const Request& r, bool is_value, int64_t head_k,
                                                     int64_t j, int64_t count, uint16_t* target, int64_t stride, int64_t rows) {
  const int64_t columns = is_value ? p.d_v : p.d;
  for (int64_t group = 0; group < count; group += kTileDepth) {
    const uint16_t* lines[kTileDepth] = {};
    for (int64_t x = 0; x < kTileDepth && group + x < count;) {
      const KeyRun run = key_run(p, r, is_value, head_k, j + group + x);
      for (int64_t n = 0; n < run.rows && x < kTileDepth && group + x < count; ++n, ++x)
        lines[x] = reinterpret_cast<const uint16_t*>(run.base + n * run.stride_bytes);
    }
    for (int64_t c = 0; c < rows; c += 16) {
      const int64_t live = columns - c < 16 ? (columns > c ? columns - c : 0) : 16;
      Vec square[16];
      FA_UNROLL for (int x = 0; x < 16; ++x) {
        const uint16_t* a = lines[2 * x];
        const uint16_t* b = lines[2 * x + 1];
        square[x] = pair_rows(a && live ? a + c : nullptr, b && live ? b + c : nullptr, live);
      }
      transpose(square);
      FA_UNROLL for (int x = 0; x < 16; ++x)
          store_unaligned(reinterpret_cast<float*>(target + (c + x) * stride + group), square[x]);
    }
  }
}

struct AmxProducts {
  static constexpr bool kIsDot2 = true;
  static constexpr bool kKeepsTop = true;
  static constexpr int kKeyStep = kTileDepth;
  static constexpr int kBuffers = 2;

  static void pack_queries(DType dtype, const char* const* rows, int64_t d, float* q_t, int lanes) {
    Dot2Products::pack_queries(dtype, rows, d, q_t, lanes);
    const int64_t used = (d + 1) / 2 * lanes;
    __builtin_memset(q_t + used, 0, static_cast<size_t>(round_up(d, kTileDepth) / 2 * lanes - used) * 4);
  }

  struct Block {
    const uint16_t* k;
    const uint16_t* v_t;
    int64_t k_stride, v_stride;
  };

  static Block open_block(const ForwardParams& p, const Request& r, int64_t head_k, int64_t j, int64_t count, char* k_copy,
                          char* v_copy) {
    Block block;
    const KeyRun run = key_run(p, r, false, head_k, j);
    if (p.d % kTileDepth == 0 && count % kTileDepth == 0 && run.rows >= count && run.stride_bytes >= 0) {
      block.k = reinterpret_cast<const uint16_t*>(run.base);
      block.k_stride = run.stride_bytes / 2;
    } else {
      block.k_stride = round_up(p.d, kTileDepth);
      uint16_t* copy = reinterpret_cast<uint16_t*>(k_copy);
      block.k = Dot2Products::copy_keys(p, r, head_k, j, count, copy, block.k_stride);
      __builtin_memset(copy + count * block.k_stride, 0,
                       static_cast<size_t>((round_up(count, kTileDepth) - count) * block.k_stride) * 2);
    }
    block.v_stride = p.block_keys;
    block.v_t = reinterpret_cast<uint16_t*>(v_copy);
    transpose_keys(p, r, true, head_k, j, count, reinterpret_cast<uint16_t*>(v_copy), block.v_stride, round_up(p.d_v, kTileDepth));
    return block;
  }

  // Scores of the keys [j, j + keys) of a block; rows up to the next multiple of 32 are written too.
  template <int kVectors>
  static TileProduct<kVectors> score_product(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const float* q_t,
                                             float* out) {
    TileProduct<kVectors> product;
    product.left = reinterpret_cast<const char*>(block.k + j * block.k_stride);
    product.left_stride = block.k_stride * 2;
    product.right = reinterpret_cast<const char*>(q_t);
    product.out = reinterpret_cast<char*>(out);
    product.groups = round_up(keys, kTileDepth) / kTileDepth;
    product.steps = round_up(p.d, kTileDepth) / kTileDepth;
    return product;
  }

  template <int kVectors>
  static TileProduct<kVectors> value_product(const ForwardParams& p, const Block& block, int64_t j, int64_t keys,
                                             const uint32_t* pairs, float* o_t) {
    TileProduct<kVectors> product;
    product.left = reinterpret_cast<const char*>(block.v_t + j);
    product.left_stride = block.v_stride * 2;
    product.right = reinterpret_cast<const char*>(pairs);
    product.out = reinterpret_cast<char*>(o_t);
    product.groups = round_up(p.d_v, kTileDepth) / kTileDepth;
    product.steps = round_up(keys, kTileDepth) / kTileDepth;
    product.accumulates = true;
    return product;
  }

  // Weights of one panel, while the matrix unit makes the scores of the next panel and the values of the last one: the vector units
  // get a few key pairs for each step of the matrix unit, so both stay busy. next_top takes the maximum of the new scores.
  template <int kVectors>
  static __attribute__((noinline)) void weights_beside(const float* scores, uint32_t* pairs, int64_t keys,
                                                       const WeightRule& rule_in, const Vec* top_in, Vec* running_sum,
                                                       TileProduct<kVectors> next, int64_t next_keys, Vec* next_top,
                                                       TileProduct<kVectors> last) {
    constexpr int lanes = kVectors * kWidth;
    const WeightRule rule = rule_in;
    Vec sum[kVectors], top[kVectors];
    FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[v] = running_sum[v], top[v] = top_in[v];
    const int64_t units = next.remaining() + last.remaining(), all_pairs = keys / 2;
    int64_t pair = 0, owed = 0, maximum_group = 0;
    const auto make_pair = [&] {
      make_pair_row<kVectors, true>(scores + 2 * pair * lanes, pairs + pair * lanes, rule, top, sum);
      ++pair;
    };
    const auto take_group_maximum = [&] {
      const int64_t from = maximum_group * kTileDepth, rest = next_keys - from;
      take_maximum<kVectors>(reinterpret_cast<const float*>(next.out) + from * lanes, rest < kTileDepth ? rest : kTileDepth,
                             next_top);
      ++maximum_group;
    };
    for (int64_t unit = 0; unit < units; ++unit) {
      if (next.group < next.groups)
        next.take_step();
      else
        last.take_step();
      for (owed += all_pairs; owed >= units; owed -= units) make_pair();
      if (maximum_group + 1 < next.group) take_group_maximum();
    }
    while (pair < all_pairs) make_pair();
    while (maximum_group < next.groups) take_group_maximum();
    if (keys % 2) make_pair_row<kVectors, false>(scores + (keys - 1) * lanes, pairs + pair * lanes, rule, top, sum);
    FA_UNROLL for (int v = 0; v < kVectors; ++v) running_sum[v] = sum[v];
    zero_rest<kVectors>(pairs, keys);
  }

  template <int kVectors>
  static void repack(const float* weights, uint32_t* pairs, int64_t keys) {
    Dot2Products::repack<kVectors>(weights, pairs, keys);
    zero_rest<kVectors>(pairs, keys);
  }

  template <int kVectors>
  static void zero_rest(uint32_t* pairs, int64_t keys) {
    const int64_t used = (keys + 1) / 2, all = round_up(keys, kTileDepth) / 2;
    __builtin_memset(pairs + used * kVectors * kWidth, 0, static_cast<size_t>((all - used) * kVectors) * 64);
  }

  // O^T *= alpha, where any lane needs it.
  template <int kVectors>
  static void rescale(const ForwardParams& p, float* o_t, const Vec* alpha) {
    const int64_t rows = round_up(p.d_v, kTileDepth);
    int32_t all_one = 1;
    FA_UNROLL for (int v = 0; v < kVectors; ++v) all_one &=
        _mm512_cmp_ps_mask(reinterpret_cast<__m512>(alpha[v]), _mm512_set1_ps(1.0f), _CMP_EQ_OQ) == 0xFFFF;
    if (all_one) return;
    for (int64_t c = 0; c < rows; ++c) FA_UNROLL for (int v = 0; v < kVectors; ++v) {
        float* at = o_t + (c * kVectors + v) * kWidth;
        store(at, load(at) * alpha[v]);
      }
  }

  template <int kVectors>
  static void finish(TileProduct<kVectors> product) {
    while (product.group < product.groups) product.take_step();
  }

  // The panels that meet the open block, with the matrix unit one panel ahead (scores) and one behind (values) of the vector units.
  template <int kVectors, class Loop>
  static void attend(Loop& loop, const Block& block, int64_t block_begin, const typename Loop::Step* steps, int count) {
    const ForwardParams& p = loop.p;
    const int64_t buffer = p.block_keys * kVectors * kWidth;
    const auto score_step = [&](int m) {
      return score_product<kVectors>(p, block, steps[m].begin - block_begin, steps[m].end - steps[m].begin,
                                     loop.q_t + steps[m].n * loop.q_stride, loop.scores + (m & 1) * buffer);
    };
    Vec raw_top[kVectors];
    loop.load_top(steps[0], raw_top);
    finish<kVectors>(score_step(0));
    take_maximum<kVectors>(loop.scores, steps[0].end - steps[0].begin, raw_top);
    TileProduct<kVectors> last;
    for (int m = 0; m < count; ++m) {
      const auto& at = steps[m];
      const int64_t keys = at.end - at.begin;
      float* const scores = loop.scores + (m & 1) * buffer;
      uint32_t* const pairs = loop.weights + (m & 1) * buffer / 2;
      typename Loop::Softmax softmax;
      loop.settle(at, scores, raw_top, &softmax);
      TileProduct<kVectors> next;
      const int64_t next_keys = m + 1 < count ? steps[m + 1].end - steps[m + 1].begin : 0;
      if (m + 1 < count) {
        next = score_step(m + 1);
        loop.load_top(steps[m + 1], raw_top);
      }
      if (p.dropout_threshold > 0) {
        loop.drop(at, scores, pairs, &softmax);
        finish<kVectors>(next);
        take_maximum<kVectors>(reinterpret_cast<const float*>(next.out), next_keys, raw_top);
        finish<kVectors>(last);
      } else {
        weights_beside<kVectors>(scores, pairs, keys, loop.rule, softmax.top, softmax.sum, next, next_keys, raw_top, last);
      }
      loop.keep_sum(at, softmax);
      rescale<kVectors>(p, loop.o_t + at.n * loop.o_stride, softmax.alpha);
      last = value_product<kVectors>(p, block, at.begin - block_begin, keys, pairs, loop.o_t + at.n * loop.o_stride);
    }
    finish<kVectors>(last);
  }
};
