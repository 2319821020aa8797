// The products of the backward kernel in fp32. S^T = K Q^T, dP^T = V dO^T and dQ^T = K^T dS^T have query rows as lanes and are the
// forward's products; dV = P^T dO and dK = dS^T Q have columns as lanes and broadcast the weights. Included inside an instruction
// set's namespace, after panel_f32.h.

constexpr int kPanelLanes = FA_PANEL_VECTORS * kWidth;
constexpr int kColumnVectors = FA_PANEL_VECTORS == 3 ? 2 : FA_PANEL_VECTORS;

// kRows keys x kVectors vectors of columns: C = A B, or C += A B, where A holds a key's weights panel by panel and B the panels'
// rows.
template <int kRows, int kVectors>
FA_INLINE void kd_tile(const float* __restrict a, int64_t panel_stride, int64_t panels, const float* __restrict b, int64_t b_stride,
                       float* __restrict c, int64_t c_stride, bool adds) {
  Vec sum[kRows][kVectors];
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] =
      adds ? load(c + i * c_stride + v * kWidth) : zero();
  for (int64_t n = 0; n < panels; ++n, a += panel_stride)
    for (int row = 0; row < kPanelLanes; ++row, b += b_stride) {
      Vec x[kVectors];
      FA_UNROLL for (int v = 0; v < kVectors; ++v) x[v] = load(b + v * kWidth);
      FA_UNROLL for (int i = 0; i < kRows; ++i) {
        const Vec weight = set1(a[i * kPanelLanes + row]);
        FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] += weight * x[v];
      }
    }
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v)
      store(c + i * c_stride + v * kWidth, sum[i][v]);
}

template <int kRows>
FA_INLINE void kd_columns(const float* a, int64_t panel_stride, int64_t panels, const float* b, int64_t stride, float* c,
                          bool adds) {
  int64_t x = 0;
  for (; x + kColumnVectors * kWidth <= stride; x += kColumnVectors * kWidth)
    kd_tile<kRows, kColumnVectors>(a, panel_stride, panels, b + x, stride, c + x, stride, adds);
  for (; x < stride; x += kWidth) kd_tile<kRows, 1>(a, panel_stride, panels, b + x, stride, c + x, stride, adds);
}

// C [keys][stride] = A B, or += A B, over `panels` panels; B and C are `stride` wide, a multiple of the vector.
static __attribute__((noinline)) void kd_block(const float* a, int64_t panel_stride, int64_t panels, const float* b, int64_t stride,
                                               float* c, int64_t keys, bool adds) {
  int64_t j = 0;
  for (; j + FA_TILE_ROWS <= keys; j += FA_TILE_ROWS)
    kd_columns<FA_TILE_ROWS>(a + j * kPanelLanes, panel_stride, panels, b, stride, c + j * stride, adds);
  for (; j < keys; ++j) kd_columns<1>(a + j * kPanelLanes, panel_stride, panels, b, stride, c + j * stride, adds);
}

// Scores become weights, the weights' gradients those of the scores: dS = P (dP - delta).
template <int kDegree>
static __attribute__((noinline)) void gradient_block(float* scores, float* dscores, int64_t keys, const WeightRule& rule_in,
                                                     const Vec* top_in, const Vec* delta_in) {
  const WeightRule rule = rule_in;
  Vec top[FA_PANEL_VECTORS], delta[FA_PANEL_VECTORS];
  FA_UNROLL for (int v = 0; v < FA_PANEL_VECTORS; ++v) top[v] = top_in[v], delta[v] = delta_in[v];
  for (int64_t j = 0; j < keys; ++j) FA_UNROLL for (int v = 0; v < FA_PANEL_VECTORS; ++v) {
      const int64_t at = j * kPanelLanes + v * kWidth;
      const Vec weight = rule.template weigh<kDegree>(load(scores + at), top[v]);
      store(scores + at, weight);
      store(dscores + at, weight * (load(dscores + at) - delta[v]));
    }
}

// How the backward loop sees the fp32 products. A panel's weights and score gradients are made in place.
struct F32Gradients {
  static constexpr bool kIsDot2 = false;
  static constexpr int kKeyStep = 1;
  static constexpr int kKeyRun = 2 * FA_TILE_ROWS;
  static constexpr int kExpDegree = 5;

  using Block = F32Products::Block;

  static Block open_block(const ForwardParams& p, const Request& r, int64_t head_k, int64_t j, int64_t count, char* k_copy,
                          char* v_copy, char*) {
    return F32Products::open_block(p, r, head_k, j, count, k_copy, v_copy);
  }

  static void pack_lanes(DType dtype, const char* const* rows, int64_t columns, int64_t, char* target) {
    pack_any_transposed(dtype, rows, columns, reinterpret_cast<float*>(target), kPanelLanes);
  }

  // A panel's rows as they are, zeros beyond.
  static void pack_rows(DType dtype, const char* const* rows, int64_t columns, int64_t stride, char* target) {
    float* to = reinterpret_cast<float*>(target);
    for (int l = 0; l < kPanelLanes; ++l, to += stride) {
      if (rows[l]) widen_any_row(dtype, rows[l], to, columns);
      const int64_t used = rows[l] ? columns : 0;
      __builtin_memset(to + used, 0, static_cast<size_t>(stride - used) * 4);
    }
  }

  // Products of two packed panels lane by lane, summed in the order in which weight_gradients sums them: where one key has all the
  // weight, its gradient and the row's delta are equal to the bit.
  static void dot_lanes(const char* a, const char* b, int64_t columns, float* out) {
    Vec sum[FA_PANEL_VECTORS] = {};
    for (int64_t at = 0; at < columns * kPanelLanes; at += kPanelLanes)
      FA_UNROLL for (int v = 0; v < FA_PANEL_VECTORS; ++v) sum[v] +=
          load(reinterpret_cast<const float*>(a) + at + v * kWidth) * load(reinterpret_cast<const float*>(b) + at + v * kWidth);
    FA_UNROLL for (int v = 0; v < FA_PANEL_VECTORS; ++v) store(out + v * kWidth, sum[v]);
  }

  static void scores(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const char* q_t, float* out) {
    Vec unused[FA_PANEL_VECTORS] = {};
    qk_block<FA_PANEL_VECTORS>(block.k + j * block.k_stride, block.k_stride, reinterpret_cast<const float*>(q_t), p.d, out, keys,
                               unused);
  }

  static void weight_gradients(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const char* dout_t,
                               float* out) {
    Vec unused[FA_PANEL_VECTORS] = {};
    qk_block<FA_PANEL_VECTORS>(block.v + j * block.v_stride, block.v_stride, reinterpret_cast<const float*>(dout_t), p.d_v, out,
                               keys, unused);
  }

  static void score_gradients(float* scores, float* dscores, int64_t keys, const WeightRule& rule, const Vec* top, const Vec* delta,
                              char*, char*, uint32_t*) {
    gradient_block<kExpDegree>(scores, dscores, keys, rule, top, delta);
  }

  static void narrow(const float*, const float*, int64_t, char*, char*, uint32_t*) {}

  static void add_dq(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const float* dscores, const uint32_t*,
                     float* dq_t) {
    Vec one[FA_PANEL_VECTORS];
    FA_UNROLL for (int v = 0; v < FA_PANEL_VECTORS; ++v) one[v] = set1(1.0f);
    pv_block<FA_PANEL_VECTORS>(block.k + j * block.k_stride, block.k_stride, p.d, dscores, keys, dq_t, one);
  }

  // sums [keys][stride] = weights^T rows over `panels` panels, or += that.
  static void add_keys(const char* weights, int64_t panel_bytes, int64_t panels, const char* rows, int64_t stride, float* sums,
                       int64_t keys, bool adds) {
    kd_block(reinterpret_cast<const float*>(weights), panel_bytes / 4, panels, reinterpret_cast<const float*>(rows), stride, sums,
             keys, adds);
  }
};
