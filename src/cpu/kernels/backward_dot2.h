// The products of the backward kernel on bf16 pairs (vdpbf16ps). Scores and weights' gradients pair elements along d and read K and
// V in place; dQ pairs keys, whose score gradients and K rows are interleaved two by two; dK and dV pair query rows, which lie side
// by side in the rounded weights. Included inside an instruction set's namespace, after panel_dot2.h and backward_f32.h.

template <int kRows, int kVectors>
FA_INLINE void kd_tile_dot2(const uint16_t* __restrict a, int64_t panel_stride, int64_t panels, const uint32_t* __restrict b,
                            int64_t b_stride, float* __restrict c, int64_t c_stride, bool adds) {
  Vec sum[kRows][kVectors];
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] =
      adds ? load(c + i * c_stride + v * kWidth) : zero();
  for (int64_t n = 0; n < panels; ++n, a += panel_stride)
    for (int row = 0; row < kPanelLanes; row += 2, b += b_stride) {
      IntVec x[kVectors];
      FA_UNROLL for (int v = 0; v < kVectors; ++v) x[v] = load_pairs(b + v * kWidth);
      FA_UNROLL for (int i = 0; i < kRows; ++i) {
        const IntVec weights = splat_pair(a + i * kPanelLanes + row);
        FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] = dot2(sum[i][v], weights, x[v]);
      }
    }
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v)
      store(c + i * c_stride + v * kWidth, sum[i][v]);
}

template <int kRows>
FA_INLINE void kd_columns_dot2(const uint16_t* a, int64_t panel_stride, int64_t panels, const uint32_t* b, int64_t stride, float* c,
                               bool adds) {
  int64_t x = 0;
  for (; x + kColumnVectors * kWidth <= stride; x += kColumnVectors * kWidth)
    kd_tile_dot2<kRows, kColumnVectors>(a, panel_stride, panels, b + x, stride, c + x, stride, adds);
  for (; x < stride; x += kWidth) kd_tile_dot2<kRows, 1>(a, panel_stride, panels, b + x, stride, c + x, stride, adds);
}

// As kd_block, with pairs of rows.
static __attribute__((noinline)) void kd_block_dot2(const uint16_t* a, int64_t panel_stride, int64_t panels, const uint32_t* b,
                                                    int64_t stride, float* c, int64_t keys, bool adds) {
  int64_t j = 0;
  for (; j + FA_TILE_ROWS <= keys; j += FA_TILE_ROWS)
    kd_columns_dot2<FA_TILE_ROWS>(a + j * kPanelLanes, panel_stride, panels, b, stride, c + j * stride, adds);
  for (; j < keys; ++j) kd_columns_dot2<1>(a + j * kPanelLanes, panel_stride, panels, b, stride, c + j * stride, adds);
}

// Two vectors of lanes become one of bf16, in order.
FA_INLINE __m512i round_lanes(Vec first, Vec second) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first)));
}

// A key's rounded lanes beside the next key's: pairs of keys.
FA_INLINE void store_key_pairs(uint32_t* target, __m512i first, __m512i second) {
  const __m512i low =
      _mm512_setr_epi32(0x00200000, 0x00210001, 0x00220002, 0x00230003, 0x00240004, 0x00250005, 0x00260006, 0x00270007, 0x00280008,
                        0x00290009, 0x002a000a, 0x002b000b, 0x002c000c, 0x002d000d, 0x002e000e, 0x002f000f);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  _mm512_store_si512(target, _mm512_permutex2var_epi16(first, low, second));
  _mm512_store_si512(target + 16, _mm512_permutex2var_epi16(first, high, second));
}

// One key's weights and score gradients, rounded.
struct RoundedKey {
  __m512i weights, gradients;
};

FA_INLINE RoundedKey differentiate_key(const float* scores, const float* dscores, const WeightRule& rule, const Vec* top,
                                       const Vec* delta) {
  Vec weight[2], gradient[2];
  FA_UNROLL for (int v = 0; v < 2; ++v) {
    weight[v] = rule.template weigh<4>(load(scores + v * kWidth), top[v]);
    gradient[v] = weight[v] * (load(dscores + v * kWidth) - delta[v]);
  }
  return {round_lanes(weight[0], weight[1]), round_lanes(gradient[0], gradient[1])};
}

// As gradient_block, with the results rounded to bf16: by rows and, the gradients, by pairs of keys.
static __attribute__((noinline)) void gradient_block_dot2(const float* scores, const float* dscores, int64_t keys,
                                                          const WeightRule& rule_in, const Vec* top_in, const Vec* delta_in,
                                                          uint16_t* weights, uint16_t* gradients, uint32_t* pairs) {
  static_assert(kPanelLanes == 32);
  const WeightRule rule = rule_in;
  const Vec top[2] = {top_in[0], top_in[1]}, delta[2] = {delta_in[0], delta_in[1]};
  for (int64_t j = 0; j < keys; j += 2) {
    const int64_t at = j * kPanelLanes;
    const RoundedKey a = differentiate_key(scores + at, dscores + at, rule, top, delta);
    RoundedKey b{_mm512_setzero_si512(), _mm512_setzero_si512()};
    if (j + 1 < keys) b = differentiate_key(scores + at + kPanelLanes, dscores + at + kPanelLanes, rule, top, delta);
    _mm512_store_si512(weights + at, a.weights);
    _mm512_store_si512(gradients + at, a.gradients);
    if (j + 1 < keys) {
      _mm512_store_si512(weights + at + kPanelLanes, b.weights);
      _mm512_store_si512(gradients + at + kPanelLanes, b.gradients);
    }
    store_key_pairs(pairs + at / 2, a.gradients, b.gradients);
  }
}

// Rows 2x and 2x + 1 interleave to a row of pairs; null rows and columns beyond are zeros.
static void pair_any_rows(const char* const* rows, int count, int64_t columns, int64_t stride, uint32_t* target) {
  static const uint16_t kNothing[512] = {};
  for (int x = 0; x < count; x += 2, target += stride) {
    const uint16_t* a = rows[x] ? reinterpret_cast<const uint16_t*>(rows[x]) : kNothing;
    const uint16_t* b = rows[x + 1] ? reinterpret_cast<const uint16_t*>(rows[x + 1]) : kNothing;
    int64_t c = 0;
    for (; c + 32 <= columns; c += 32) interleave(a + c, b + c, target + c);
    for (; c < columns; ++c) target[c] = static_cast<uint32_t>(b[c]) << 16 | a[c];
    for (; c < stride; ++c) target[c] = 0;
  }
}

struct Dot2Gradients {
  static constexpr bool kIsDot2 = true;
  static constexpr int kKeyStep = 2;
  static constexpr int kKeyRun = 2 * FA_TILE_ROWS;
  static constexpr int kExpDegree = 4;

  struct Block {
    const uint16_t *k, *v;
    const uint32_t* k_pairs;  // [keys / 2][pair_stride]
    int64_t k_stride, v_stride, pair_stride;
  };

  // K or V with pairs along the row: in place where rows are even and close together.
  static const uint16_t* rows_of(const ForwardParams& p, const Request& r, bool is_value, int64_t head_k, int64_t j, int64_t count,
                                 char* copy, int64_t* stride) {
    const int64_t columns = is_value ? p.d_v : p.d;
    const KeyRun run = key_run(p, r, is_value, head_k, j);
    if (columns % 2 == 0 && run.stride_bytes >= 0 && run.stride_bytes <= columns * 2 + 64) {
      *stride = run.stride_bytes / 2;
      return reinterpret_cast<const uint16_t*>(run.base);
    }
    *stride = round_up(columns, 2);
    uint16_t* to = reinterpret_cast<uint16_t*>(copy);
    for (int64_t x = 0; x < count; ++x, to += *stride) {
      __builtin_memcpy(to, run.base + x * run.stride_bytes, static_cast<size_t>(columns) * 2);
      if (columns % 2) to[columns] = 0;
    }
    return reinterpret_cast<const uint16_t*>(copy);
  }

  static Block open_block(const ForwardParams& p, const Request& r, int64_t head_k, int64_t j, int64_t count, char* k_copy,
                          char* v_copy, char* k_pairs) {
    Block block;
    block.k = rows_of(p, r, false, head_k, j, count, k_copy, &block.k_stride);
    block.v = rows_of(p, r, true, head_k, j, count, v_copy, &block.v_stride);
    block.pair_stride = p.d;
    block.k_pairs = reinterpret_cast<uint32_t*>(k_pairs);
    const KeyRun run = key_run(p, r, false, head_k, j);
    for (int64_t x = 0; x < count; x += 2) {
      const char* const rows[2] = {run.base + x * run.stride_bytes,
                                   x + 1 < count ? run.base + (x + 1) * run.stride_bytes : nullptr};
      pair_any_rows(rows, 2, p.d, p.d, reinterpret_cast<uint32_t*>(k_pairs) + x / 2 * p.d);
    }
    return block;
  }

  static void pack_lanes(DType dtype, const char* const* rows, int64_t columns, int64_t, char* target) {
    Dot2Products::pack_queries(dtype, rows, columns, reinterpret_cast<float*>(target), kPanelLanes);
  }

  static void pack_rows(DType, const char* const* rows, int64_t columns, int64_t stride, char* target) {
    pair_any_rows(rows, kPanelLanes, columns, stride, reinterpret_cast<uint32_t*>(target));
  }

  static void dot_lanes(const char* a, const char* b, int64_t columns, float* out) {
    Vec sum[FA_PANEL_VECTORS] = {};
    for (int64_t at = 0; at < (columns + 1) / 2 * kPanelLanes; at += kPanelLanes)
      FA_UNROLL for (int v = 0; v < FA_PANEL_VECTORS; ++v) sum[v] =
          dot2(sum[v], load_pairs(reinterpret_cast<const uint32_t*>(a) + at + v * kWidth),
               load_pairs(reinterpret_cast<const uint32_t*>(b) + at + v * kWidth));
    FA_UNROLL for (int v = 0; v < FA_PANEL_VECTORS; ++v) store(out + v * kWidth, sum[v]);
  }

  static void scores(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const char* q_t, float* out) {
    Vec unused[FA_PANEL_VECTORS] = {};
    qk_block_dot2<FA_PANEL_VECTORS>(block.k + j * block.k_stride, block.k_stride, reinterpret_cast<const uint32_t*>(q_t),
                                    (p.d + 1) / 2, out, keys, unused);
  }

  static void weight_gradients(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const char* dout_t,
                               float* out) {
    Vec unused[FA_PANEL_VECTORS] = {};
    qk_block_dot2<FA_PANEL_VECTORS>(block.v + j * block.v_stride, block.v_stride, reinterpret_cast<const uint32_t*>(dout_t),
                                    (p.d_v + 1) / 2, out, keys, unused);
  }

  static void score_gradients(float* scores, float* dscores, int64_t keys, const WeightRule& rule, const Vec* top, const Vec* delta,
                              char* weights, char* gradients, uint32_t* pairs) {
    gradient_block_dot2(scores, dscores, keys, rule, top, delta, reinterpret_cast<uint16_t*>(weights),
                        reinterpret_cast<uint16_t*>(gradients), pairs);
  }

  // Weights and gradients that are made already are rounded.
  static void narrow(const float* scores, const float* dscores, int64_t keys, char* weights, char* gradients, uint32_t* pairs) {
    for (int64_t j = 0; j < keys; ++j) {
      const int64_t at = j * kPanelLanes;
      const __m512i gradient = round_lanes(load(dscores + at), load(dscores + at + kWidth));
      _mm512_store_si512(reinterpret_cast<uint16_t*>(weights) + at, round_lanes(load(scores + at), load(scores + at + kWidth)));
      _mm512_store_si512(reinterpret_cast<uint16_t*>(gradients) + at, gradient);
      if (j % 2)
        store_key_pairs(pairs + (j - 1) * kPanelLanes / 2,
                        _mm512_load_si512(reinterpret_cast<uint16_t*>(gradients) + at - kPanelLanes), gradient);
      else if (j + 1 == keys)
        store_key_pairs(pairs + at / 2, gradient, _mm512_setzero_si512());
    }
  }

  static void add_dq(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const float*, const uint32_t* pairs,
                     float* dq_t) {
    Vec one[FA_PANEL_VECTORS];
    FA_UNROLL for (int v = 0; v < FA_PANEL_VECTORS; ++v) one[v] = set1(1.0f);
    pv_block_dot2<FA_PANEL_VECTORS>(block.k_pairs + j / 2 * block.pair_stride, block.pair_stride, p.d, pairs, (keys + 1) / 2, dq_t,
                                    one);
  }

  static void add_keys(const char* weights, int64_t panel_bytes, int64_t panels, const char* rows, int64_t stride, float* sums,
                       int64_t keys, bool adds) {
    kd_block_dot2(reinterpret_cast<const uint16_t*>(weights), panel_bytes / 2, panels, reinterpret_cast<const uint32_t*>(rows),
                  stride, sums, keys, adds);
  }
};
