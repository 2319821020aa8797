// The row kernel, for a handful of query rows over many keys (decode): dot products run along d, so K and V are read once, in
// place, in whatever layout; a block's V is fetched towards L2 while its scores are made, and the next block's K while V is used.
// All dtypes are widened to fp32 in registers. Included inside an instruction set's namespace, after scores.h.

constexpr int kBlockKeys = 64;
constexpr int kMaxRows = kWidth < 8 ? kWidth : 8;

// One block's keys, one pointer a row, so that pages and strides are invisible below. Slots past `count` repeat the last key.
struct KeyRows {
  const char* row[kBlockKeys];

  void open(const ForwardParams& p, const Request& r, bool is_value, int64_t head_k, int64_t j, int64_t count) {
    for (int64_t x = 0; x < count;) {
      const KeyRun run = key_run(p, r, is_value, head_k, j + x);
      const int64_t end = x + run.rows < count ? x + run.rows : count;
      for (const char* at = run.base; x < end; ++x, at += run.stride_bytes) row[x] = at;
    }
    for (int64_t x = count; x < kBlockKeys; ++x) row[x] = row[count - 1];
  }
};

FA_INLINE void prefetch_row(const char* row, int64_t bytes) {
  for (int64_t x = 0; x < bytes; x += 64) prefetch_l2(row + x);
}

// products[row * kBlockKeys + key] for kRows rows x (kWidth / kRows) keys; the sums of all pairs are folded by one transpose.
template <DType kType, int kRows>
FA_INLINE void dot_tile(const float* __restrict q, int64_t q_stride, const char* const* keys, int64_t d, float* products) {
  constexpr int kKeys = kWidth / kRows;
  constexpr int64_t bytes = kType == DType::f32 ? 4 : 2;
  Vec sum[kWidth];
  FA_UNROLL for (int i = 0; i < kWidth; ++i) sum[i] = zero();
  int64_t c = 0;
  for (; c + kWidth <= d; c += kWidth) {
    Vec k[kKeys];
    FA_UNROLL for (int j = 0; j < kKeys; ++j) k[j] = load_as_float<kType>(keys[j] + c * bytes);
    FA_UNROLL for (int i = 0; i < kRows; ++i) {
      const Vec x = load(q + i * q_stride + c);
      FA_UNROLL for (int j = 0; j < kKeys; ++j) sum[i * kKeys + j] += x * k[j];
    }
  }
  if (c < d) {
    FA_UNROLL for (int j = 0; j < kKeys; ++j) {
      const Vec k = load_tail<kType>(keys[j] + c * bytes, d - c);
      FA_UNROLL for (int i = 0; i < kRows; ++i) sum[i * kKeys + j] += load(q + i * q_stride + c) * k;
    }
  }
  transpose(sum);
  FA_UNROLL for (int half = kWidth / 2; half > 0; half /= 2) FA_UNROLL for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  if constexpr (kRows == 1) {
    store_unaligned(products, sum[0]);
  } else {
    alignas(64) float all[kWidth];
    store(all, sum[0]);
    FA_UNROLL for (int i = 0; i < kRows; ++i) __builtin_memcpy(products + i * kBlockKeys, all + i * kKeys, kKeys * 4);
  }
}

template <DType kType, int kRows>
static __attribute__((noinline)) void dot_block(const ForwardParams& p, const float* q, int64_t q_stride, const KeyRows& keys,
                                                const KeyRows& soon, int64_t count, float* products) {
  constexpr int kKeys = kWidth / kRows;
  const int64_t value_bytes = p.d_v * element_bytes(p.dtype);
  for (int64_t j = 0; j < count; j += kKeys) {
    FA_UNROLL for (int x = 0; x < kKeys; ++x) prefetch_row(soon.row[j + x], value_bytes);
    dot_tile<kType, kRows>(q, q_stride, keys.row + j, p.d, products + j);
  }
}

// Columns [c, c + kVectors * kWidth) of o = alpha * o + weights * V, for kRows rows.
template <DType kType, int kRows, int kVectors>
FA_INLINE void value_tile(const char* const* values, int64_t count, const float* weights, float* __restrict o, int64_t o_stride,
                          const float* alpha, int64_t c, int64_t tail) {
  constexpr int64_t bytes = kType == DType::f32 ? 4 : 2;
  Vec sum[kRows][kVectors];
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] =
      set1(alpha[i]) * load(o + i * o_stride + c + v * kWidth);
  for (int64_t j = 0; j < count; ++j) {
    const char* row = values[j] + c * bytes;
    Vec x[kVectors];
    if (tail > 0) {
      x[0] = load_tail<kType>(row, tail);
    } else {
      FA_UNROLL for (int v = 0; v < kVectors; ++v) x[v] = load_as_float<kType>(row + v * kWidth * bytes);
    }
    FA_UNROLL for (int i = 0; i < kRows; ++i) {
      const Vec weight = set1(weights[i * kBlockKeys + j]);
      FA_UNROLL for (int v = 0; v < kVectors; ++v) sum[i][v] += weight * x[v];
    }
  }
  FA_UNROLL for (int i = 0; i < kRows; ++i) FA_UNROLL for (int v = 0; v < kVectors; ++v)
      store(o + i * o_stride + c + v * kWidth, sum[i][v]);
}

template <DType kType, int kRows>
static __attribute__((noinline)) void value_block(const ForwardParams& p, const KeyRows& values, const KeyRows& soon, int64_t count,
                                                  const float* weights, float* o, int64_t o_stride, const float* alpha) {
  constexpr int kVectors = kRows == 1 ? 8 : (kRows == 2 ? 4 : 2);
  constexpr int kStep = kVectors * kWidth;
  const int64_t key_bytes = p.d * element_bytes(p.dtype);
  const int64_t steps = (p.d_v + kStep - 1) / kStep;
  int64_t fetched = 0;
  const auto fetch_share = [&](int64_t step) {
    for (const int64_t until = count * step / steps; fetched < until; ++fetched) prefetch_row(soon.row[fetched], key_bytes);
  };
  int64_t c = 0, step = 0;
  for (; c + kStep <= p.d_v; c += kStep) {
    fetch_share(++step);
    value_tile<kType, kRows, kVectors>(values.row, count, weights, o, o_stride, alpha, c, 0);
  }
  fetch_share(steps);
  for (; c + kWidth <= p.d_v; c += kWidth) value_tile<kType, kRows, 1>(values.row, count, weights, o, o_stride, alpha, c, 0);
  if (c < p.d_v) value_tile<kType, kRows, 1>(values.row, count, weights, o, o_stride, alpha, c, p.d_v - c);
}

struct RowLoop {
  const ForwardParams& p;
  const Request& r;
  const ForwardTask& task;
  int rows, padded;  // padded to 1, 2, 4 or 8
  int64_t q_stride, o_stride;
  float *q, *o;
  bool scored;
  RowPlace place[8];
  KeyInterval reach[8];
  float top[8], slope[8], alpha[8];
  Vec sum[8];
  alignas(64) float weights[8 * kBlockKeys];
  KeyRows keys, values;

  RowLoop(const ForwardParams& params, const Request& request, const ForwardTask& t, char* scratch)
      : p(params), r(request), task(t) {
    rows = static_cast<int>(task.row_end - task.row_begin);
    padded = rows <= 1 ? 1 : (rows <= 2 ? 2 : (rows <= 4 ? 4 : 8));
    q_stride = round_up(p.d, 16);
    o_stride = round_up(p.d_v, 16);
    q = reinterpret_cast<float*>(scratch);
    o = q + 8 * q_stride;
    scored = needs_score_pass(p, r);
  }

  void open_rows() {
    __builtin_memset(q, 0, static_cast<size_t>(padded * q_stride) * 4);
    __builtin_memset(o, 0, static_cast<size_t>(padded * o_stride) * 4);
    for (int x = 0; x < padded; ++x) {
      top[x] = FA_MINUS_INFINITY;
      sum[x] = zero();
      slope[x] = 0;
      alpha[x] = 0;
      reach[x] = KeyInterval{};
      if (x >= rows) continue;
      place[x] = place_of(p, task.head_k, task.row_begin + x);
      reach[x] = key_interval(r.rule, place[x].i);
      if (p.alibi) slope[x] = p.alibi[r.index * p.alibi_batch_stride + place[x].head];
      widen_any_row(p.dtype, p.q + query_offset(p.q_axes, r, place[x].i, place[x].head) * element_bytes(p.dtype), q + x * q_stride,
                    p.d);
    }
  }

  // Row x's products of keys [j, j + count) become weights; its maximum, sum and alpha move on.
  void soften(int x, int64_t j, int64_t count) {
    float* line = weights + x * kBlockKeys;
    alignas(64) float extra[kBlockKeys];
    const bool with_extra = p.bias || p.mask || (r.is_tree && j + count > r.tree_prefix);
    if (with_extra) fill_line(x, j, count, extra);
    const KeyInterval& seen = reach[x];
    const bool has_edge = count % kWidth != 0 || !((seen.lo <= j && seen.hi >= j + count) || seen.first >= j + count);
    const float diagonal = static_cast<float>(place[x].i + r.rule.delta - j);
    Vec block_top = set1(FA_MINUS_INFINITY);
    for (int64_t at = 0; at < count; at += kWidth) {
      Vec score = load(line + at);
      const IntVec lane = iota() + set1_int(static_cast<int32_t>(at));
      if (scored) {
        score =
            score_of(p, score, absolute(set1(diagonal) - to_float(lane)), set1(slope[x]), with_extra ? load(extra + at) : zero());
      } else {
        score = score * set1(p.scale * kLog2E);
      }
      if (has_edge) {
        const IntVec lo = set1_int(static_cast<int32_t>(clamp_to(seen.lo - j, 0, count)));
        const IntVec hi = set1_int(static_cast<int32_t>(clamp_to(seen.hi - j, 0, count)));
        const IntVec first = set1_int(static_cast<int32_t>(clamp_to(seen.first - j, 0, count)));
        score = select(((lane >= lo) & (lane < hi)) | (lane < first), score, set1(FA_MINUS_INFINITY));
      }
      store(line + at, score);
      block_top = maximum(block_top, score);
    }
    const float new_top = reduce_max(block_top) > top[x] ? reduce_max(block_top) : top[x];
    const Vec base = set1(new_top > -__FLT_MAX__ ? new_top : -__FLT_MAX__);
    alignas(64) float scale[kWidth];
    store(scale, exp2_of<5>(set1(top[x]) - base));
    alpha[x] = scale[0];
    top[x] = new_top;
    Vec total = sum[x] * set1(alpha[x]);
    for (int64_t at = 0; at < count; at += kWidth) {
      const Vec weight = exp2_of<5>(load(line + at) - base);
      total += weight;
      store(line + at, weight);
    }
    sum[x] = total;
    if (p.dropout_threshold > 0) drop_weights(p, r, place[x], j, count, line, 1);
  }

  void fill_line(int x, int64_t j, int64_t count, float* extra) {
    for (int64_t c = 0; c < kBlockKeys; ++c) extra[c] = 0;
    if (p.bias) {
      const int64_t bytes = p.bias_dtype == DType::f32 ? 4 : 2;
      const char* from = p.bias + (bias_offset(p.bias_axes, r, place[x].i, place[x].head) + j * p.bias_axes.key) * bytes;
      if (p.bias_axes.key == 1) {
        widen_any_row(p.bias_dtype, from, extra, count);
      } else {
        for (int64_t c = 0; c < count; ++c) widen_any_row(p.bias_dtype, from + c * p.bias_axes.key * bytes, extra + c, 1);
      }
    }
    hide_by_bits(p, r, place[x], j, count, extra, 1);
  }

  template <DType kType, int kRows>
  void attend(int64_t j, int64_t count, int64_t next, int64_t next_count) {
    values.open(p, r, true, task.head_k, j, count);
    dot_block<kType, kRows>(p, q, q_stride, keys, values, count, weights);
    for (int x = 0; x < rows; ++x) soften(x, j, count);
    for (int x = rows; x < kRows; ++x)
      for (int c = 0; c < kBlockKeys; ++c) weights[x * kBlockKeys + c] = 0;
    if (next_count > 0) keys.open(p, r, false, task.head_k, next, next_count);
    value_block<kType, kRows>(p, values, keys, count, weights, o, o_stride, alpha);
  }

  template <DType kType>
  void attend_any(int64_t j, int64_t count, int64_t next, int64_t next_count) {
    if (padded == 1) return attend<kType, 1>(j, count, next, next_count);
    if (padded == 2) return attend<kType, 2>(j, count, next, next_count);
    if constexpr (kMaxRows >= 4) {
      if (padded == 4) return attend<kType, 4>(j, count, next, next_count);
    }
    if constexpr (kMaxRows >= 8) attend<kType, 8>(j, count, next, next_count);
  }

  void attend_all() {
    int64_t lo = INT64_MAX, hi = 0, first = 0;
    for (int x = 0; x < rows; ++x) {
      if (reach[x].lo < reach[x].hi) {
        lo = reach[x].lo < lo ? reach[x].lo : lo;
        hi = reach[x].hi > hi ? reach[x].hi : hi;
      }
      first = reach[x].first > first ? reach[x].first : first;
    }
    // Blocks start at absolute multiples, so a row's result does not depend on the rows beside it.
    const auto next_block = [&](int64_t at) {
      if (at >= first && at + kBlockKeys <= lo && lo != INT64_MAX) at = lo / kBlockKeys * kBlockKeys;
      return at;
    };
    const int64_t limit = hi > first ? hi : first;
    const int64_t end = limit < task.key_end ? limit : task.key_end;
    int64_t at = next_block(task.key_begin / kBlockKeys * kBlockKeys);
    const auto count_at = [&](int64_t from) { return from >= end ? 0 : (from + kBlockKeys < end ? kBlockKeys : end - from); };
    if (count_at(at) > 0) keys.open(p, r, false, task.head_k, at, count_at(at));
    while (count_at(at) > 0) {
      const int64_t next = next_block(at + kBlockKeys);
      if (p.dtype == DType::f32)
        attend_any<DType::f32>(at, count_at(at), next, count_at(next));
      else if (p.dtype == DType::f16)
        attend_any<DType::f16>(at, count_at(at), next, count_at(next));
      else
        attend_any<DType::bf16>(at, count_at(at), next, count_at(next));
      at = next;
    }
  }

  void write() {
    for (int x = 0; x < rows; ++x) {
      float* line = o + x * o_stride;
      const float total = reduce_add(sum[x]);
      if (task.partial) {
        task.partial[x] = total == 0 ? FA_MINUS_INFINITY : top[x];
        task.partial[rows + x] = total;
        __builtin_memcpy(task.partial + 2 * rows + x * p.d_v, line, static_cast<size_t>(p.d_v) * 4);
        continue;
      }
      const RowFinish finish = finish_row(p, place[x].head, top[x], total);
      for (int64_t c = 0; c < p.d_v; ++c) line[c] *= finish.factor;
      narrow_row(p.o_dtype, line, p.o + query_offset(p.o_axes, r, place[x].i, place[x].head) * element_bytes(p.o_dtype), p.d_v);
      if (p.lse) p.lse[query_offset(p.lse_axes, r, place[x].i, place[x].head)] = finish.lse;
    }
  }
};

static int64_t row_scratch_bytes(int64_t d, int64_t d_v) { return 8 * (round_up(d, 16) + round_up(d_v, 16)) * 4; }

static void run_rows(const ForwardParams& p, const Request& r, const ForwardTask& task, char* scratch) {
  RowLoop loop(p, r, task, scratch);
  loop.open_rows();
  loop.attend_all();
  loop.write();
}
