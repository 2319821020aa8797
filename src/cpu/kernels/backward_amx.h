// The products of the backward kernel on AMX tiles, over the operands of backward_dot2.h but for K, which is transposed once per
// block of keys where dQ wants its columns as rows. Keys and head dims come in steps of 32, padded with zeros. Included inside an
// instruction set's namespace, after panel_amx.h and backward_dot2.h.

// C [keys][columns] = A B, or += A B, 32 keys and 32 columns at a time: A holds a panel's weights by keys, B its rows in pairs.
// Keys are rounded up to 32; what that adds to rows behind them nobody reads.
static __attribute__((noinline)) void kd_block_amx(const char* a, int64_t panel_bytes, int64_t panels, const char* b,
                                                   int64_t stride, float* c, int64_t keys, bool adds) {
  constexpr int64_t a_stride = kPanelLanes * 2;
  const int64_t line = stride * 4, panel_rows = kPanelLanes / 2 * line;
  for (int64_t j = 0; j < keys; j += kTileDepth)
    for (int64_t x = 0; x < stride; x += kTileDepth) {
      char* const out = reinterpret_cast<char*>(c + j * stride + x);
      if (adds) {
        _tile_loadd(0, out, line);
        _tile_loadd(1, out + kTileRows * line, line);
        _tile_loadd(2, out + 64, line);
        _tile_loadd(3, out + kTileRows * line + 64, line);
      } else {
        zero_tiles<2>();
      }
      for (int64_t n = 0; n < panels; ++n) {
        const char* const left = a + n * panel_bytes + j * a_stride;
        const char* const right = b + n * panel_rows + x * 4;
        __asm__ volatile("" ::: "memory");  // GCC's tile loads do not say that they read memory
        _tile_loadd(4, left, a_stride);
        _tile_loadd(6, right, line);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, left + kTileRows * a_stride, a_stride);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(7, right + 64, line);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, out, line);
      _tile_stored(1, out + kTileRows * line, line);
      _tile_stored(2, out + 64, line);
      _tile_stored(3, out + kTileRows * line + 64, line);
    }
}

struct AmxGradients {
  static constexpr bool kIsDot2 = true;
  static constexpr int kKeyStep = kTileDepth;
  static constexpr int kKeyRun = kTileDepth;
  static constexpr int kExpDegree = Dot2Gradients::kExpDegree;

  struct Block {
    const uint16_t *k, *v, *k_t;  // k_t: [padded d][block_keys]
    int64_t k_stride, v_stride, k_t_stride;
  };

  // K or V in place where it fills tiles, else a copy that is padded with zeros.
  static const uint16_t* rows_of(const ForwardParams& p, const Request& r, bool is_value, int64_t head_k, int64_t j, int64_t count,
                                 char* copy, int64_t* stride) {
    const int64_t columns = is_value ? p.d_v : p.d;
    const KeyRun run = key_run(p, r, is_value, head_k, j);
    if (columns % kTileDepth == 0 && count % kTileDepth == 0 && run.stride_bytes >= 0) {
      *stride = run.stride_bytes / 2;
      return reinterpret_cast<const uint16_t*>(run.base);
    }
    *stride = round_up(columns, kTileDepth);
    uint16_t* to = reinterpret_cast<uint16_t*>(copy);
    for (int64_t x = 0; x < round_up(count, kTileDepth); ++x, to += *stride) {
      const int64_t used = x < count ? columns : 0;
      if (used > 0) __builtin_memcpy(to, run.base + x * run.stride_bytes, static_cast<size_t>(used) * 2);
      __builtin_memset(to + used, 0, static_cast<size_t>(*stride - used) * 2);
    }
    return reinterpret_cast<const uint16_t*>(copy);
  }

  static Block open_block(const ForwardParams& p, const Request& r, int64_t head_k, int64_t j, int64_t count, char* k_copy,
                          char* v_copy, char* k_t) {
    Block block;
    block.k = rows_of(p, r, false, head_k, j, count, k_copy, &block.k_stride);
    block.v = rows_of(p, r, true, head_k, j, count, v_copy, &block.v_stride);
    block.k_t = reinterpret_cast<uint16_t*>(k_t);
    block.k_t_stride = p.block_keys;
    transpose_keys(p, r, false, head_k, j, count, reinterpret_cast<uint16_t*>(k_t), p.block_keys, round_up(p.d, kTileDepth));
    return block;
  }

  static void pack_lanes(DType dtype, const char* const* rows, int64_t columns, int64_t, char* target) {
    AmxProducts::pack_queries(dtype, rows, columns, reinterpret_cast<float*>(target), kPanelLanes);
  }

  static void pack_rows(DType dtype, const char* const* rows, int64_t columns, int64_t stride, char* target) {
    Dot2Gradients::pack_rows(dtype, rows, columns, stride, target);
  }

  static void product(const uint16_t* left, int64_t stride, int64_t columns, int64_t keys, const char* right, float* out) {
    TileProduct<FA_PANEL_VECTORS> product;
    product.left = reinterpret_cast<const char*>(left);
    product.left_stride = stride * 2;
    product.right = right;
    product.out = reinterpret_cast<char*>(out);
    product.groups = round_up(keys, kTileDepth) / kTileDepth;
    product.steps = round_up(columns, kTileDepth) / kTileDepth;
    AmxProducts::finish<FA_PANEL_VECTORS>(product);
  }

  static void dot_lanes(const char* a, const char* b, int64_t columns, float* out) { Dot2Gradients::dot_lanes(a, b, columns, out); }

  static void scores(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const char* q_t, float* out) {
    product(block.k + j * block.k_stride, block.k_stride, p.d, keys, q_t, out);
  }

  static void weight_gradients(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const char* dout_t,
                               float* out) {
    product(block.v + j * block.v_stride, block.v_stride, p.d_v, keys, dout_t, out);
  }

  static void score_gradients(float* scores, float* dscores, int64_t keys, const WeightRule& rule, const Vec* top, const Vec* delta,
                              char* weights, char* gradients, uint32_t* pairs) {
    Dot2Gradients::score_gradients(scores, dscores, keys, rule, top, delta, weights, gradients, pairs);
    AmxProducts::zero_rest<FA_PANEL_VECTORS>(pairs, keys);
  }

  static void narrow(const float* scores, const float* dscores, int64_t keys, char* weights, char* gradients, uint32_t* pairs) {
    Dot2Gradients::narrow(scores, dscores, keys, weights, gradients, pairs);
    AmxProducts::zero_rest<FA_PANEL_VECTORS>(pairs, keys);
  }

  static void add_dq(const ForwardParams& p, const Block& block, int64_t j, int64_t keys, const float*, const uint32_t* pairs,
                     float* dq_t) {
    TileProduct<FA_PANEL_VECTORS> product;
    product.left = reinterpret_cast<const char*>(block.k_t + j);
    product.left_stride = block.k_t_stride * 2;
    product.right = reinterpret_cast<const char*>(pairs);
    product.out = reinterpret_cast<char*>(dq_t);
    product.groups = round_up(p.d, kTileDepth) / kTileDepth;
    product.steps = round_up(keys, kTileDepth) / kTileDepth;
    product.accumulates = true;
    AmxProducts::finish<FA_PANEL_VECTORS>(product);
  }

  static void add_keys(const char* weights, int64_t panel_bytes, int64_t panels, const char* rows, int64_t stride, float* sums,
                       int64_t keys, bool adds) {
    kd_block_amx(weights, panel_bytes, panels, rows, stride, sums, keys, adds);
  }
};
