// The products of the panel kernel on bf16 pairs (vdpbf16ps): Q^T holds pairs along d, K is read in place as 32-bit pairs, V is
// interleaved key by key into pairs, and weights are rounded to bf16 pairs as they are made. AMX replaces the two products by tile
// instructions over the same operands. Included inside an instruction set's namespace, after panel_f32.h.

FA_INLINE Vec dot2(Vec sum, IntVec a, IntVec b) {
  return reinterpret_cast<Vec>(
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
}

FA_INLINE IntVec load_pairs(const uint32_t* p) { return *reinterpret_cast<const IntVec __attribute__((may_alias))*>(p); }

// The 32 bits at p, which may be aligned to 2 bytes only.
FA_INLINE IntVec splat_pair(const uint16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, 4);
  return set1_int(pair);
}

// Halves x0..x31 of a and y0..y31 of b interleave to x0 y0 x1 y1 ...
FA_INLINE void interleave(const uint16_t* a, const uint16_t* b, uint32_t* target) {
  const __m512i first =
      _mm512_setr_epi32(0x00200000, 0x00210001, 0x00220002, 0x00230003, 0x00240004, 0x00250005, 0x00260006, 0x00270007, 0x00280008,
                        0x00290009, 0x002a000a, 0x002b000b, 0x002c000c, 0x002d000d, 0x002e000e, 0x002f000f);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  const __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
  _mm512_storeu_si512(target, _mm512_permutex2var_epi16(x, first, y));
  _mm512_storeu_si512(target + 16, _mm512_permutex2var_epi16(x, second, y));
}

// Two rows of fp32 weights become one row of bf16 pairs (first row in the low half).
FA_INLINE IntVec pair_weights(Vec first, Vec second) {
  const __m512i order =
      _mm512_setr_epi32(0x00100000, 0x00110001, 0x00120002, 0x00130003, 0x00140004, 0x00150005, 0x00160006, 0x00170007, 0x00180008,
                        0x00190009, 0x001a000a, 0x001b000b, 0x001c000c, 0x001d000d, 0x001e000e, 0x001f000f);
  const __m512i halves =
      reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first)));
  return reinterpret_cast<IntVec>(_mm512_permutexvar_epi16(order, halves));
}

template <int kRows, int kVectors>
FA_INLINE void qk_tile_dot2(const uint16_t* __restrict k, int64_t k_stride, const uint32_t* __restrict q_t, int64_t pairs,
                            float* __restrict scores, Vec* top) {
  Vec sum[kRows][kVectors];
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] = zero();
  for (int64_t c = 0; c < pairs; ++c) {
    IntVec q[kVectors];
    FA_UNROLL for (int v = 0; v < kVectors; ++v) q[v] = load_pairs(q_t + (c * kVectors + v) * kWidth);
    FA_UNROLL for (int i = 0; i < kRows; ++i) {
      const IntVec x = splat_pair(k + i * k_stride + 2 * c);
      FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] = dot2(sum[i][v], x, q[v]);
    }
  }
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v) {
    store(scores + (i * kVectors + v) * kWidth, sum[i][v]);
    top[v] = maximum(top[v], sum[i][v]);
  }
}

template <int kRows, int kVectors>
FA_INLINE void pv_tile_dot2(const uint32_t* __restrict v_pairs, int64_t v_stride, const uint32_t* __restrict weights, int64_t pairs,
                            float* __restrict o_t, const Vec* alpha) {
  Vec sum[kRows][kVectors];
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] =
      alpha[v] * load(o_t + (i * kVectors + v) * kWidth);
  for (int64_t j = 0; j < pairs; ++j) {
    IntVec p[kVectors];
    FA_UNROLL for (int v = 0; v < kVectors; ++v) p[v] = load_pairs(weights + (j * kVectors + v) * kWidth);
    FA_UNROLL for (int i = 0; i < kRows; ++i) {
      const IntVec x = set1_int(static_cast<int32_t>(v_pairs[j * v_stride + i]));
      FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] = dot2(sum[i][v], x, p[v]);
    }
  }
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v)
      store(o_t + (i * kVectors + v) * kWidth, sum[i][v]);
}

template <int kVectors>
static __attribute__((noinline)) void qk_block_dot2(const uint16_t* k, int64_t k_stride, const uint32_t* q_t, int64_t pairs,
                                                    float* scores, int64_t keys, Vec* running_top) {
  constexpr int lanes = kVectors * kWidth;
  Vec top[kVectors];
  FA_UNROLL for (int v = 0; v < kVectors; ++v) top[v] = running_top[v];
  int64_t j = 0;
  for (; j + FA_TILE_ROWS <= keys; j += FA_TILE_ROWS)
    qk_tile_dot2<FA_TILE_ROWS, kVectors>(k + j * k_stride, k_stride, q_t, pairs, scores + j * lanes, top);
  for (; j < keys; ++j) qk_tile_dot2<1, kVectors>(k + j * k_stride, k_stride, q_t, pairs, scores + j * lanes, top);
  FA_UNROLL for (int v = 0; v < kVectors; ++v) running_top[v] = top[v];
}

template <int kVectors>
static __attribute__((noinline)) void pv_block_dot2(const uint32_t* v_pairs, int64_t v_stride, int64_t d_v, const uint32_t* weights,
                                                    int64_t pairs, float* o_t, const Vec* alpha_in) {
  constexpr int lanes = kVectors * kWidth;
  Vec alpha[kVectors];
  FA_UNROLL for (int v = 0; v < kVectors; ++v) alpha[v] = alpha_in[v];
  int64_t c = 0;
  for (; c + FA_TILE_ROWS <= d_v; c += FA_TILE_ROWS)
    pv_tile_dot2<FA_TILE_ROWS, kVectors>(v_pairs + c, v_stride, weights, pairs, o_t + c * lanes, alpha);
  for (; c < d_v; ++c) pv_tile_dot2<1, kVectors>(v_pairs + c, v_stride, weights, pairs, o_t + c * lanes, alpha);
}

// One row of pairs from the scores of two keys (one key and nothing, for an odd last one); the sums take the unrounded weights.
template <int kVectors, bool kHasSecond>
FA_INLINE void make_pair_row(const float* scores, uint32_t* pairs, const WeightRule& rule, const Vec* top, Vec* sum) {
  FA_UNROLL for (int v = 0; v < kVectors; ++v) {
    const Vec first = rule.template weigh<4>(load(scores + v * kWidth), top[v]);
    Vec second = zero();
    if constexpr (kHasSecond) second = rule.template weigh<4>(load(scores + (kVectors + v) * kWidth), top[v]);
    sum[v] += first + second;
    store(reinterpret_cast<float*>(pairs + v * kWidth), from_bits(pair_weights(first, second)));
  }
}

// As exp_block, with the weights rounded to bf16 pairs.
template <int kVectors>
static __attribute__((noinline)) void exp_block_dot2(const float* scores, uint32_t* weights, int64_t keys,
                                                     const WeightRule& rule_in, const Vec* top_in, Vec* running_sum) {
  constexpr int lanes = kVectors * kWidth;
  const WeightRule rule = rule_in;
  Vec sum[kVectors], top[kVectors];
  FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[v] = running_sum[v], top[v] = top_in[v];
  int64_t j = 0;
  for (; j + 2 <= keys; j += 2) make_pair_row<kVectors, true>(scores + j * lanes, weights + j / 2 * lanes, rule, top, sum);
  if (j < keys) make_pair_row<kVectors, false>(scores + j * lanes, weights + j / 2 * lanes, rule, top, sum);
  FA_UNROLL for (int v = 0; v < kVectors; ++v) running_sum[v] = sum[v];
}

// V rows j and j + 1 become one row of pairs; the row after the last key is zero.
static __attribute__((noinline)) void interleave_values(const ForwardParams& p, const Request& r, int64_t head_k, int64_t j,
                                                        int64_t count, uint32_t* target, int64_t stride) {
  static const uint16_t kNothing[512] = {};
  KeyRun run = key_run(p, r, true, head_k, j);
  int64_t used = 0;
  const auto next_row = [&]() -> const uint16_t* {
    if (count == 0) return kNothing;
    if (used == run.rows) run = key_run(p, r, true, head_k, j), used = 0;
    const char* row = run.base + used * run.stride_bytes;
    ++used, ++j, --count;
    return reinterpret_cast<const uint16_t*>(row);
  };
  while (count > 0) {
    const uint16_t* a = next_row();
    const uint16_t* b = next_row();
    int64_t c = 0;
    for (; c + 32 <= p.d_v; c += 32) interleave(a + c, b + c, target + c);
    for (; c < p.d_v; ++c) target[c] = static_cast<uint32_t>(b[c]) << 16 | a[c];
    for (; c < stride; ++c) target[c] = 0;
    target += stride;
  }
}

struct Dot2Products {
  static constexpr bool kIsDot2 = true;
  static constexpr bool kKeepsTop = false;
  static constexpr int kBuffers = 1;
  static constexpr int kKeyStep = 2;

  static void pack_queries(DType, const char* const* rows, int64_t d, float* q_t, int lanes) {
    pack_transposed<DType::f32>(rows, d / 2, q_t, lanes);
    if (d % 2 == 0) return;
    for (int l = 0; l < lanes; ++l) {
      uint16_t last = 0;
      if (rows[l]) __builtin_memcpy(&last, rows[l] + (d - 1) * 2, 2);
      reinterpret_cast<uint32_t*>(q_t)[d / 2 * lanes + l] = last;
    }
  }

  struct Block {
    const uint16_t* k;
    const uint32_t* v;
    int64_t k_stride, v_stride;  // v_stride counts pairs
  };

  static Block open_block(const ForwardParams& p, const Request& r, int64_t head_k, int64_t j, int64_t count, char* k_copy,
                          char* v_copy) {
    Block block;
    const KeyRun run = key_run(p, r, false, head_k, j);
    if (p.d % 2 == 0 && run.rows >= count && run.stride_bytes >= 0 && run.stride_bytes <= p.d * 2 + 64) {
      block.k = reinterpret_cast<const uint16_t*>(run.base);
      block.k_stride = run.stride_bytes / 2;
    } else {
      block.k_stride = round_up(p.d, 2);
      block.k = copy_keys(p, r, head_k, j, count, reinterpret_cast<uint16_t*>(k_copy), block.k_stride);
    }
    block.v_stride = p.d_v;
    block.v = reinterpret_cast<uint32_t*>(v_copy);
    interleave_values(p, r, head_k, j, count, reinterpret_cast<uint32_t*>(v_copy), block.v_stride);
    return block;
  }

  // Rows of `stride` elements, zero beyond d.
  static const uint16_t* copy_keys(const ForwardParams& p, const Request& r, int64_t head_k, int64_t j, int64_t count,
                                   uint16_t* target, int64_t stride) {
    uint16_t* to = target;
    while (count > 0) {
      const KeyRun run = key_run(p, r, false, head_k, j);
      const int64_t rows = run.rows < count ? run.rows : count;
      for (int64_t x = 0; x < rows; ++x, to += stride) {
        __builtin_memcpy(to, run.base + x * run.stride_bytes, static_cast<size_t>(p.d) * 2);
        for (int64_t c = p.d; c < stride; ++c) to[c] = 0;
      }
      j += rows;
      count -= rows;
    }
    return target;
  }

  template <int kVectors>
  static void scores(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const float* q_t, float* out, Vec* top) {
    qk_block_dot2<kVectors>(block.k + j * block.k_stride, block.k_stride, reinterpret_cast<const uint32_t*>(q_t), (p.d + 1) / 2,
                            out, keys, top);
  }

  template <int kVectors>
  static void weights(float* scores, uint32_t* pairs, int64_t keys, const WeightRule& rule, const Vec* top, Vec* sum) {
    exp_block_dot2<kVectors>(scores, pairs, keys, rule, top, sum);
  }

  // Pairs again from fp32 weights that dropout has changed.
  template <int kVectors>
  static void repack(const float* weights, uint32_t* pairs, int64_t keys) {
    for (int64_t j = 0; j < keys; j += 2)
      for (int v = 0; v < kVectors; ++v) {
        const float* at = weights + (j * kVectors + v) * kWidth;
        const Vec second = j + 1 < keys ? load(at + kVectors * kWidth) : zero();
        store(reinterpret_cast<float*>(pairs + (j / 2 * kVectors + v) * kWidth), from_bits(pair_weights(load(at), second)));
      }
  }

  template <int kVectors>
  static void values(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const float*, const uint32_t* pairs,
                     float* o_t, const Vec* alpha) {
    pv_block_dot2<kVectors>(block.v + j / 2 * block.v_stride, block.v_stride, p.d_v, pairs, (keys + 1) / 2, o_t, alpha);
  }
};
