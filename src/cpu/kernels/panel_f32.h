// The products of the panel kernel in fp32. Lanes are query rows: S^T = K Q^T and O^T = V^T P^T, with K and V elements broadcast,
// so neither is ever transposed. Blocks are kept out of line: inlined into one large function, compilers spill the accumulators.
// Included inside an instruction set's namespace, after simd.h.

// kRows keys x kVectors vectors of scores; the running maximum is taken on the way out.
template <int kRows, int kVectors>
FA_INLINE void qk_tile(const float* __restrict k, int64_t k_stride, const float* __restrict q_t, int64_t d,
                       float* __restrict scores, Vec* top) {
  Vec sum[kRows][kVectors];
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] = zero();
  for (int64_t c = 0; c < d; ++c) {
    Vec q[kVectors];
    FA_UNROLL for (int v = 0; v < kVectors; ++v) q[v] = load(q_t + (c * kVectors + v) * kWidth);
    FA_UNROLL for (int i = 0; i < kRows; ++i) {
      const Vec x = set1(k[i * k_stride + c]);
      FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] += x * q[v];
    }
  }
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v) {
    store(scores + (i * kVectors + v) * kWidth, sum[i][v]);
    top[v] = maximum(top[v], sum[i][v]);
  }
}

// O^T rows [0, kRows) of the tile become alpha * O^T + V^T P^T over all keys of the block.
template <int kRows, int kVectors>
FA_INLINE void pv_tile(const float* __restrict v_rows, int64_t v_stride, const float* __restrict weights, int64_t keys,
                       float* __restrict o_t, const Vec* alpha) {
  Vec sum[kRows][kVectors];
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] =
      alpha[v] * load(o_t + (i * kVectors + v) * kWidth);
  for (int64_t j = 0; j < keys; ++j) {
    Vec p[kVectors];
    FA_UNROLL for (int v = 0; v < kVectors; ++v) p[v] = load(weights + (j * kVectors + v) * kWidth);
    FA_UNROLL for (int i = 0; i < kRows; ++i) {
      const Vec x = set1(v_rows[j * v_stride + i]);
      FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] += x * p[v];
    }
  }
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v)
      store(o_t + (i * kVectors + v) * kWidth, sum[i][v]);
}

template <int kVectors>
static __attribute__((noinline)) void qk_block(const float* k, int64_t k_stride, const float* q_t, int64_t d, float* scores,
                                               int64_t keys, Vec* running_top) {
  constexpr int lanes = kVectors * kWidth;
  Vec top[kVectors];
  FA_UNROLL for (int v = 0; v < kVectors; ++v) top[v] = running_top[v];
  int64_t j = 0;
  for (; j + FA_TILE_ROWS <= keys; j += FA_TILE_ROWS)
    qk_tile<FA_TILE_ROWS, kVectors>(k + j * k_stride, k_stride, q_t, d, scores + j * lanes, top);
  for (; j < keys; ++j) qk_tile<1, kVectors>(k + j * k_stride, k_stride, q_t, d, scores + j * lanes, top);
  FA_UNROLL for (int v = 0; v < kVectors; ++v) running_top[v] = top[v];
}

template <int kVectors>
static __attribute__((noinline)) void pv_block(const float* v_rows, int64_t v_stride, int64_t d_v, const float* weights,
                                               int64_t keys, float* o_t, const Vec* alpha_in) {
  constexpr int lanes = kVectors * kWidth;
  Vec alpha[kVectors];
  FA_UNROLL for (int v = 0; v < kVectors; ++v) alpha[v] = alpha_in[v];
  int64_t c = 0;
  for (; c + FA_TILE_ROWS <= d_v; c += FA_TILE_ROWS)
    pv_tile<FA_TILE_ROWS, kVectors>(v_rows + c, v_stride, weights, keys, o_t + c * lanes, alpha);
  for (; c + 2 <= d_v; c += 2) pv_tile<2, kVectors>(v_rows + c, v_stride, weights, keys, o_t + c * lanes, alpha);
  for (; c < d_v; ++c) pv_tile<1, kVectors>(v_rows + c, v_stride, weights, keys, o_t + c * lanes, alpha);
}

// Scores become weights; their sums are added per lane.
template <int kVectors>
static __attribute__((noinline)) void exp_block(float* scores, int64_t keys, const WeightRule& rule_in, const Vec* top_in,
                                                Vec* running_sum) {
  const WeightRule rule = rule_in;
  Vec sum[kVectors], top[kVectors];
  FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[v] = running_sum[v], top[v] = top_in[v];
  for (int64_t j = 0; j < keys; ++j) FA_UNROLL for (int v = 0; v < kVectors; ++v) {
      float* at = scores + (j * kVectors + v) * kWidth;
      const Vec weight = rule.template weigh<5>(load(at), top[v]);
      sum[v] += weight;
      store(at, weight);
    }
  FA_UNROLL for (int v = 0; v < kVectors; ++v) running_sum[v] = sum[v];
}

// Copy `count` keys into fp32 rows of `stride`.
static void widen_keys(const ForwardParams& p, const Request& r, bool is_value, int64_t head_k, int64_t j, int64_t count,
                       float* target, int64_t stride) {
  const int64_t columns = is_value ? p.d_v : p.d;
  while (count > 0) {
    const KeyRun run = key_run(p, r, is_value, head_k, j);
    const int64_t rows = run.rows < count ? run.rows : count;
    for (int64_t x = 0; x < rows; ++x) widen_any_row(p.dtype, run.base + x * run.stride_bytes, target + x * stride, columns);
    target += rows * stride;
    j += rows;
    count -= rows;
  }
}

// How the panel loop sees the fp32 products.
struct F32Products {
  static constexpr bool kIsDot2 = false;
  static constexpr bool kKeepsTop = false;
  static constexpr int kBuffers = 1;
  static constexpr int kKeyStep = 1;

  static void pack_queries(DType dtype, const char* const* rows, int64_t d, float* q_t, int lanes) {
    pack_any_transposed(dtype, rows, d, q_t, lanes);
  }

  // A block's keys, in place where they already are evenly spaced fp32 rows.
  struct Block {
    const float* k;
    const float* v;
    int64_t k_stride, v_stride;
  };

  static const float* rows_of(const ForwardParams& p, const Request& r, bool is_value, int64_t head_k, int64_t j, int64_t count,
                              float* copy, int64_t* stride) {
    const int64_t columns = is_value ? p.d_v : p.d;
    if (p.dtype == DType::f32) {
      const KeyRun run = key_run(p, r, is_value, head_k, j);
      if (run.rows >= count && run.stride_bytes <= columns * 4 + 64 && run.stride_bytes >= 0) {
        *stride = run.stride_bytes / 4;
        return reinterpret_cast<const float*>(run.base);
      }
    }
    widen_keys(p, r, is_value, head_k, j, count, copy, columns);
    *stride = columns;
    return copy;
  }

  static Block open_block(const ForwardParams& p, const Request& r, int64_t head_k, int64_t j, int64_t count, char* k_copy,
                          char* v_copy) {
    Block block;
    block.k = rows_of(p, r, false, head_k, j, count, reinterpret_cast<float*>(k_copy), &block.k_stride);
    block.v = rows_of(p, r, true, head_k, j, count, reinterpret_cast<float*>(v_copy), &block.v_stride);
    return block;
  }

  template <int kVectors>
  static void scores(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const float* q_t, float* out, Vec* top) {
    qk_block<kVectors>(block.k + j * block.k_stride, block.k_stride, q_t, p.d, out, keys, top);
  }

  template <int kVectors>
  static void weights(float* scores, uint32_t*, int64_t keys, const WeightRule& rule, const Vec* top, Vec* sum) {
    exp_block<kVectors>(scores, keys, rule, top, sum);
  }

  template <int kVectors>
  static void repack(const float*, uint32_t*, int64_t) {}

  template <int kVectors>
  static void values(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const float* weights, const uint32_t*,
                     float* o_t, const Vec* alpha) {
    pv_block<kVectors>(block.v + j * block.v_stride, block.v_stride, p.d_v, weights, keys, o_t, alpha);
  }
};
