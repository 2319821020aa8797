// Reading q, k, v rows in any dtype and writing o: the only place where kernels know element types and K/V layouts. Included inside
// an instruction set's namespace, after simd.h.

// Where `count` consecutive keys lie: `rows` keys from `base` on, `stride_bytes` apart.
struct KeyRun {
  const char* base;
  int64_t stride_bytes;
  int64_t rows;
};

FA_INLINE int64_t element_bytes(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

// The run of keys that starts at effective key j; `is_value` picks v instead of k.
static KeyRun key_run(const ForwardParams& p, const Request& r, bool is_value, int64_t head_k, int64_t j) {
  const Axes& axes = is_value ? p.v_axes : p.k_axes;
  const int64_t bytes = element_bytes(p.dtype);
  const int64_t row = r.k_row + j;
  const char* base = is_value ? p.v : p.k;
  if (p.kv_source == KvSource::paged) {
    const int64_t page = p.block_table[r.k_batch * p.block_table_stride + row / p.page_size];
    const int64_t in_page = row % p.page_size;
    return {base + (page * axes.batch + in_page * axes.row + head_k * axes.head) * bytes, axes.row * bytes, p.page_size - in_page};
  }
  if (p.kv_source == KvSource::pointers) {
    base = static_cast<const char*>(is_value ? p.v_ptrs[r.index] : p.k_ptrs[r.index]);
    return {base + (row * axes.row + head_k * axes.head) * bytes, axes.row * bytes, r.s_k - j};
  }
  return {base + (r.k_batch * axes.batch + row * axes.row + head_k * axes.head) * bytes, axes.row * bytes, r.s_k - j};
}

template <DType kType>
FA_INLINE Vec load_as_float(const char* p) {
  if constexpr (kType == DType::f32)
    return load_unaligned(reinterpret_cast<const float*>(p));
  else if constexpr (kType == DType::f16)
    return widen_f16(reinterpret_cast<const uint16_t*>(p));
  else
    return widen_bf16(reinterpret_cast<const uint16_t*>(p));
}

// `count` < kWidth elements, zeros behind; reads nothing beyond them.
template <DType kType>
FA_INLINE Vec load_tail(const char* p, int64_t count) {
  alignas(64) char lanes[kWidth * 4] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(count * (kType == DType::f32 ? 4 : 2)));
  return load_as_float<kType>(lanes);
}

template <DType kType>
static void widen_row(const char* source, float* target, int64_t count) {
  constexpr int64_t bytes = kType == DType::f32 ? 4 : 2;
  int64_t x = 0;
  for (; x + kWidth <= count; x += kWidth) store_unaligned(target + x, load_as_float<kType>(source + x * bytes));
  if (x < count) {
    alignas(64) float lanes[kWidth];
    store(lanes, load_tail<kType>(source + x * bytes, count - x));
    __builtin_memcpy(target + x, lanes, static_cast<size_t>(count - x) * 4);
  }
}

static void widen_any_row(DType dtype, const char* source, float* target, int64_t count) {
  if (dtype == DType::f32)
    __builtin_memcpy(target, source, static_cast<size_t>(count) * 4);
  else if (dtype == DType::f16)
    widen_row<DType::f16>(source, target, count);
  else
    widen_row<DType::bf16>(source, target, count);
}

// Write `count` floats as elements of a dtype.
static void narrow_row(DType dtype, const float* source, char* target, int64_t count) {
  if (dtype == DType::f32) {
    __builtin_memcpy(target, source, static_cast<size_t>(count) * 4);
    return;
  }
  const auto put = [dtype](uint16_t* to, Vec v) {
    if (dtype == DType::f16)
      store_f16(to, v);
    else
      store_bf16(to, v);
  };
  uint16_t* to = reinterpret_cast<uint16_t*>(target);
  int64_t x = 0;
  for (; x + kWidth <= count; x += kWidth) put(to + x, load_unaligned(source + x));
  if (x < count) {
    alignas(64) float lanes[kWidth] = {};
    alignas(64) uint16_t halves[kWidth];
    __builtin_memcpy(lanes, source + x, static_cast<size_t>(count - x) * 4);
    put(halves, load(lanes));
    __builtin_memcpy(to + x, halves, static_cast<size_t>(count - x) * 2);
  }
}

// Lane l of column c goes to target[c * lanes + l]: `rows[l]` are row pointers, null for a lane of zeros. `kWords` moves 32-bit
// words unchanged (`columns` counts words of `tail_bytes` extra bytes); otherwise elements are widened to fp32.
template <DType kType>
static void pack_transposed(const char* const* rows, int64_t columns, float* target, int lanes) {
  constexpr int64_t bytes = kType == DType::f32 ? 4 : 2;
  for (int lane = 0; lane < lanes; lane += kWidth) {
    for (int64_t c = 0; c < columns; c += kWidth) {
      const int64_t count = columns - c < kWidth ? columns - c : kWidth;
      Vec square[kWidth];
      if (count == kWidth) {
        FA_UNROLL for (int l = 0; l < kWidth; ++l) square[l] =
            rows[lane + l] ? load_as_float<kType>(rows[lane + l] + c * bytes) : zero();
      } else {
        FA_UNROLL for (int l = 0; l < kWidth; ++l) square[l] =
            rows[lane + l] ? load_tail<kType>(rows[lane + l] + c * bytes, count) : zero();
      }
      transpose(square);
      if (count == kWidth) {
        FA_UNROLL for (int x = 0; x < kWidth; ++x) store(target + (c + x) * lanes + lane, square[x]);
      } else {
        alignas(64) float spill[kWidth][kWidth];
        FA_UNROLL for (int x = 0; x < kWidth; ++x) store(spill[x], square[x]);
        for (int64_t x = 0; x < count; ++x) __builtin_memcpy(target + (c + x) * lanes + lane, spill[x], sizeof(spill[x]));
      }
    }
  }
}

static void pack_any_transposed(DType dtype, const char* const* rows, int64_t columns, float* target, int lanes) {
  if (dtype == DType::f32)
    pack_transposed<DType::f32>(rows, columns, target, lanes);
  else if (dtype == DType::f16)
    pack_transposed<DType::f16>(rows, columns, target, lanes);
  else
    pack_transposed<DType::bf16>(rows, columns, target, lanes);
}

// The inverse: target row l gets column values source[c * lanes + l] * factor of that lane, in a dtype.
static void unpack_transposed(const float* source, int lanes, int lane_begin, int rows, int64_t columns, Vec factor, DType dtype,
                              char* const* targets) {
  const int64_t bytes = element_bytes(dtype);
  for (int64_t c = 0; c < columns; c += kWidth) {
    const int64_t count = columns - c < kWidth ? columns - c : kWidth;
    Vec square[kWidth];
    if (count == kWidth) {
      FA_UNROLL for (int x = 0; x < kWidth; ++x) square[x] = load(source + (c + x) * lanes + lane_begin) * factor;
    } else {
      FA_UNROLL for (int x = 0; x < kWidth; ++x) square[x] =
          x < count ? load(source + (c + x) * lanes + lane_begin) * factor : zero();
    }
    transpose(square);
    alignas(64) float lines[kWidth][kWidth];
    FA_UNROLL for (int l = 0; l < kWidth; ++l) store(lines[l], square[l]);
    for (int l = 0; l < rows; ++l) narrow_row(dtype, lines[l], targets[l] + c * bytes, count);
  }
}
