// The products of the panel kernel on AMX tiles, over the same operands as panel_dot2.h but for V, which is transposed once per block:
// S^T = K Q^T takes K's rows as they lie, O^T = V^T P^T takes the weights' pairs. Keys come in steps of 32 (a tile's depth), padded
// with zeros. The matrix unit is so fast that softmax dominates: the running maximum is kept while it is at most 2^8 too low, so that
// O^T is seldom rescaled. Included inside an instruction set's namespace, after panel_dot2.h.

constexpr int kTileRows = 16, kTileDepth = 32;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Tiles 0..3 accumulate, 4 and 5 hold the left operand, 6 and 7 the right one.
struct TileScope {
  TileScope() {
    const TileConfig config;
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

// 32 rows of the left operand times all lanes: `steps` tiles deep. Left tiles lie left_step bytes apart, right ones follow each other.
template <int kVectors>
FA_INLINE void tile_product(const char* left, int64_t left_stride, const char* left_lower, const char* right, int64_t steps) {
  constexpr int64_t right_stride = kVectors * 64, right_step = kTileRows * right_stride;
  for (int64_t s = 0; s < steps; ++s) {
    _tile_loadd(4, left + s * 64, left_stride);
    _tile_loadd(5, left_lower + s * 64, left_stride);
    _tile_loadd(6, right + s * right_step, right_stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    if constexpr (kVectors == 2) {
      _tile_loadd(7, right + s * right_step + 64, right_stride);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
}

// scores [keys rounded up to 32][lanes] = K [keys][steps * 32] Q^T.
template <int kVectors>
static __attribute__((noinline)) void qk_block_amx(const uint16_t* k, int64_t k_stride, const uint32_t* q_t, int64_t steps,
                                                   float* scores, int64_t keys) {
  constexpr int64_t line = kVectors * 64;
  for (int64_t j = 0; j < keys; j += 2 * kTileRows) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kVectors == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
    const char* left = reinterpret_cast<const char*>(k + j * k_stride);
    tile_product<kVectors>(left, k_stride * 2, left + kTileRows * k_stride * 2, reinterpret_cast<const char*>(q_t), steps);
    char* out = reinterpret_cast<char*>(scores) + j * line;
    _tile_stored(0, out, line);
    _tile_stored(1, out + kTileRows * line, line);
    if constexpr (kVectors == 2) {
      _tile_stored(2, out + 64, line);
      _tile_stored(3, out + kTileRows * line + 64, line);
    }
  }
}

// O^T [rows rounded up to 32][lanes] += V^T [rows][steps * 32] P^T.
template <int kVectors>
static __attribute__((noinline)) void pv_block_amx(const uint16_t* v_t, int64_t v_stride, int64_t rows, const uint32_t* weights,
                                                   int64_t steps, float* o_t) {
  constexpr int64_t line = kVectors * 64;
  for (int64_t c = 0; c < rows; c += 2 * kTileRows) {
    char* out = reinterpret_cast<char*>(o_t) + c * line;
    _tile_loadd(0, out, line);
    _tile_loadd(1, out + kTileRows * line, line);
    if constexpr (kVectors == 2) {
      _tile_loadd(2, out + 64, line);
      _tile_loadd(3, out + kTileRows * line + 64, line);
    }
    const char* left = reinterpret_cast<const char*>(v_t + c * v_stride);
    tile_product<kVectors>(left, v_stride * 2, left + kTileRows * v_stride * 2, reinterpret_cast<const char*>(weights), steps);
    _tile_stored(0, out, line);
    _tile_stored(1, out + kTileRows * line, line);
    if constexpr (kVectors == 2) {
      _tile_stored(2, out + 64, line);
      _tile_stored(3, out + kTileRows * line + 64, line);
    }
  }
}

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

// target[c * stride + key] = V[j + key][c] for c < rows and keys rounded up to 32; zeros where there is no element.
static __attribute__((noinline)) void transpose_values(const ForwardParams& p, const Request& r, int64_t head_k, int64_t j,
                                                       int64_t count, uint16_t* target, int64_t stride, int64_t rows) {
  for (int64_t group = 0; group < count; group += kTileDepth) {
    const uint16_t* lines[kTileDepth] = {};
    for (int64_t x = 0; x < kTileDepth && group + x < count;) {
      const KeyRun run = key_run(p, r, true, head_k, j + group + x);
      for (int64_t n = 0; n < run.rows && x < kTileDepth && group + x < count; ++n, ++x)
        lines[x] = reinterpret_cast<const uint16_t*>(run.base + n * run.stride_bytes);
    }
    for (int64_t c = 0; c < rows; c += 16) {
      const int64_t live = p.d_v - c < 16 ? (p.d_v > c ? p.d_v - c : 0) : 16;
      Vec square[16];
      FA_UNROLL for (int x = 0; x < 16; ++x) {
        const uint16_t* a = lines[2 * x];
        const uint16_t* b = lines[2 * x + 1];
        square[x] = pair_rows(a && live ? a + c : nullptr, b && live ? b + c : nullptr, live);
      }
      transpose(square);
      FA_UNROLL for (int x = 0; x < 16; ++x) store_unaligned(reinterpret_cast<float*>(target + (c + x) * stride + group), square[x]);
    }
  }
}

struct AmxProducts {
  static constexpr bool kIsDot2 = true;
  static constexpr bool kKeepsTop = true;
  static constexpr int kKeyStep = kTileDepth;

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
      __builtin_memset(copy + count * block.k_stride, 0, static_cast<size_t>((round_up(count, kTileDepth) - count) * block.k_stride) * 2);
    }
    block.v_stride = p.block_keys;
    block.v_t = reinterpret_cast<uint16_t*>(v_copy);
    transpose_values(p, r, head_k, j, count, reinterpret_cast<uint16_t*>(v_copy), block.v_stride, round_up(p.d_v, kTileDepth));
    return block;
  }

  template <int kVectors>
  static void scores(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const float* q_t, float* out, Vec* top) {
    qk_block_amx<kVectors>(block.k + j * block.k_stride, block.k_stride, reinterpret_cast<const uint32_t*>(q_t),
                           round_up(p.d, kTileDepth) / kTileDepth, out, keys);
    take_maximum<kVectors>(out, keys, top);
  }

  template <int kVectors>
  static void weights(float* scores, uint32_t* pairs, int64_t keys, Vec factor, const Vec* top, Vec* sum) {
    exp_block_dot2<kVectors>(scores, pairs, keys, factor, top, sum);
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

  template <int kVectors>
  static void values(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const float*, const uint32_t* pairs,
                     float* o_t, const Vec* alpha) {
    const int64_t rows = round_up(p.d_v, kTileDepth);
    int32_t all_one = 1;
    FA_UNROLL for (int v = 0; v < kVectors; ++v)
      all_one &= _mm512_cmp_ps_mask(reinterpret_cast<__m512>(alpha[v]), _mm512_set1_ps(1.0f), _CMP_EQ_OQ) == 0xFFFF;
    if (!all_one)
      for (int64_t c = 0; c < rows; ++c) FA_UNROLL for (int v = 0; v < kVectors; ++v) {
        float* at = o_t + (c * kVectors + v) * kWidth;
        store(at, load(at) * alpha[v]);
      }
    pv_block_amx<kVectors>(block.v_t + j, block.v_stride, rows, pairs, round_up(keys, kTileDepth) / kTileDepth, o_t);
  }
};
