// The panel kernel: exact attention of a block of query rows over a range of keys, with rows as SIMD lanes and a streaming softmax.
// For each block of keys and each panel of lanes: scores, masks where an edge crosses, weights, and O^T += V^T P^T. Written once
// over Products (panel_f32.h, panel_dot2.h, panel_amx.h). Results of a row depend on key block boundaries only, which are absolute,
// never on the task a row came with. Included inside an instruction set's namespace, after reach.h.

// What a step's weights need: the maximum, what older results shrink by, and the running sum.
template <int kVectors>
struct SoftmaxStep {
  Vec top[kVectors], alpha[kVectors], sum[kVectors];
};

template <class Products, int kVectors>
struct PanelLoop {
  static constexpr int kLanes = kVectors * kWidth;
  using Step = PanelStep;
  using Softmax = SoftmaxStep<kVectors>;

  const ForwardParams& p;
  const Request& r;
  const ForwardTask& task;
  int64_t rows, panels, padded_rows, q_stride, o_stride;
  float *q_t, *scores, *o_t, *extra, *top, *sum;
  uint32_t* weights;
  char *k_copy, *v_copy;
  RowSpans spans;
  bool scored;   // scores come out of score_pass, in the log2 domain
  float factor;  // from stored scores to the log2 domain
  WeightRule rule{1.0f};
  PanelReach reach[kMaxPanels];

  PanelLoop(const ForwardParams& params, const Request& request, const ForwardTask& t, const PanelFormat& format, char* scratch)
      : p(params), r(request), task(t) {
    const PanelScratch at(format, p.d, p.d_v, p.block_rows, p.block_keys);
    rows = task.row_end - task.row_begin;
    panels = (rows + kLanes - 1) / kLanes;
    padded_rows = panels * kLanes;
    q_stride = (Products::kIsDot2 ? round_up(p.d, format.pair_pad) / 2 : p.d) * kLanes;
    o_stride = (Products::kIsDot2 ? round_up(p.d_v, format.value_pad) : p.d_v) * kLanes;
    q_t = reinterpret_cast<float*>(scratch + at.q_t);
    scores = reinterpret_cast<float*>(scratch + at.scores);
    weights = reinterpret_cast<uint32_t*>(scratch + at.weights);
    o_t = reinterpret_cast<float*>(scratch + at.o_t);
    extra = reinterpret_cast<float*>(scratch + at.extra);
    k_copy = scratch + at.k_block;
    v_copy = scratch + at.v_block;
    top = reinterpret_cast<float*>(scratch + at.stats);
    sum = top + padded_rows;
    spans = RowSpans(reinterpret_cast<char*>(sum + padded_rows), padded_rows);
    scored = needs_score_pass(p, r);
    factor = scored ? 1.0f : p.scale * kLog2E;
    rule = WeightRule(factor);
  }

  void open_rows() {
    for (int64_t x = 0; x < padded_rows; ++x) top[x] = FA_MINUS_INFINITY, sum[x] = 0;
    spans.read(p, r, task.head_k, task.row_begin, rows, padded_rows);
    __builtin_memset(o_t, 0, static_cast<size_t>(panels * o_stride) * 4);
    for (int64_t n = 0; n < panels; ++n) open_panel(n);
  }

  void open_panel(int64_t n) {
    const char* q_rows[kLanes] = {};
    const int64_t live = rows - n * kLanes < kLanes ? rows - n * kLanes : kLanes;
    reach[n] = spans.reach(n * kLanes, n * kLanes + live);
    for (int64_t l = 0; l < live; ++l) {
      const RowPlace row = place_of(p, task.head_k, task.row_begin + n * kLanes + l);
      q_rows[l] = p.q + query_offset(p.q_axes, r, row.i, row.head) * element_bytes(p.dtype);
    }
    Products::pack_queries(p.dtype, q_rows, p.d, q_t + n * q_stride, kLanes);
  }

  // Raw scores become final ones where masks or bias want it; the row's maximum and sum move on.
  void settle(const PanelStep& at, float* step_scores, const Vec* raw_top, Softmax* to) {
    const int64_t row = at.n * kLanes, keys = at.end - at.begin;
    const LaneRows lanes = spans.lanes(row);
    const bool has_edge = !reach[at.n].covers(at.begin, at.end);
    Vec old_top[kVectors], new_top[kVectors];
    FA_UNROLL for (int v = 0; v < kVectors; ++v) old_top[v] = new_top[v] = load(top + row + v * kWidth);
    if (scored) {
      const bool with_extra = p.bias || p.mask || (r.is_tree && at.end > r.tree_prefix);
      const int64_t live = rows - row < kLanes ? rows - row : kLanes;
      if (with_extra) fill_extra(p, r, task.head_k, task.row_begin + row, static_cast<int>(live), kLanes, at.begin, keys, extra);
      score_pass<kVectors>(p, lanes, at.begin, keys, has_edge, with_extra ? extra : nullptr, step_scores, new_top);
    } else if (has_edge) {
      mask_pass<kVectors>(lanes, at.begin, keys, step_scores, new_top);
    } else {
      FA_UNROLL for (int v = 0; v < kVectors; ++v) new_top[v] = raw_top[v];
    }
    FA_UNROLL for (int v = 0; v < kVectors; ++v) {
      // A maximum that is a little too low is as good: weights stay below 2^8. Decided lane by lane, so rows stay independent.
      if constexpr (Products::kKeepsTop)
        new_top[v] = select((new_top[v] - old_top[v]) * set1(factor) <= set1(8.0f), old_top[v], new_top[v]);
      // A row that has seen only -inf keeps -inf; the finite stand-in avoids inf - inf.
      to->top[v] = maximum(set1(-__FLT_MAX__), new_top[v]);
      to->alpha[v] = rule.template weigh<5>(old_top[v], to->top[v]);
      to->sum[v] = to->alpha[v] * load(sum + row + v * kWidth);
      store(top + row + v * kWidth, new_top[v]);
    }
  }

  void keep_sum(const PanelStep& at, const Softmax& softmax) {
    FA_UNROLL for (int v = 0; v < kVectors; ++v) store(sum + at.n * kLanes + v * kWidth, softmax.sum[v]);
  }

  // fp32 weights with some dropped, for any products.
  void drop(const PanelStep& at, float* step_scores, uint32_t* step_weights, Softmax* softmax) {
    const int64_t row = at.n * kLanes, keys = at.end - at.begin;
    exp_block<kVectors>(step_scores, keys, rule, softmax->top, softmax->sum);
    const int64_t live = rows - row < kLanes ? rows - row : kLanes;
    fill_keep<kVectors>(p, r, task.head_k, task.row_begin + row, live, at.begin, keys, 1.0f, extra);
    multiply_all(step_scores, extra, keys * kLanes);
    Products::template repack<kVectors>(step_scores, step_weights, keys);
  }

  void load_top(const PanelStep& at, Vec* to) {
    FA_UNROLL for (int v = 0; v < kVectors; ++v) to[v] = load(top + at.n * kLanes + v * kWidth);
  }

  // The panels that meet the open block, one after the other.
  void attend(const typename Products::Block& block, int64_t block_begin, const PanelStep* steps, int count) {
    for (const PanelStep* at = steps; at < steps + count; ++at) {
      const int64_t keys = at->end - at->begin, offset = at->begin - block_begin;
      Vec raw_top[kVectors];
      load_top(*at, raw_top);
      Products::template scores<kVectors>(p, block, offset, keys, q_t + at->n * q_stride, scores, raw_top);
      Softmax softmax;
      settle(*at, scores, raw_top, &softmax);
      if (p.dropout_threshold > 0)
        drop(*at, scores, weights, &softmax);
      else
        Products::template weights<kVectors>(scores, weights, keys, rule, softmax.top, softmax.sum);
      keep_sum(*at, softmax);
      Products::template values<kVectors>(p, block, offset, keys, scores, weights, o_t + at->n * o_stride, softmax.alpha);
    }
  }

  void attend_all() {
    int64_t all_begin, all_end;
    key_hull(reach, panels, &all_begin, &all_end);
    all_begin = all_begin > task.key_begin ? all_begin : task.key_begin;
    all_end = all_end < task.key_end ? all_end : task.key_end;
    if (all_begin >= all_end) return;
    for (int64_t at = all_begin / p.block_keys * p.block_keys; at < all_end; at += p.block_keys) {
      const int64_t end = at + p.block_keys < all_end ? at + p.block_keys : all_end;
      PanelStep steps[kMaxPanels];
      const int count = meeting_panels(reach, panels, at, end, Products::kKeyStep, steps);
      if (count == 0) continue;
      const typename Products::Block block = Products::open_block(p, r, task.head_k, at, end - at, k_copy, v_copy);
      if constexpr (Products::kBuffers == 2)
        Products::template attend<kVectors>(*this, block, at, steps, count);
      else
        attend(block, at, steps, count);
    }
  }

  void write_panel(int64_t n) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t begin = n * kLanes + v * kWidth;
      const int64_t live = rows - begin < kWidth ? rows - begin : kWidth;
      if (live <= 0) return;
      alignas(64) float factors[kWidth] = {};
      char* targets[kWidth] = {};
      for (int64_t l = 0; l < live; ++l) {
        const RowPlace row = place_of(p, task.head_k, task.row_begin + begin + l);
        const RowFinish finish = finish_row(p, row.head, top[begin + l] * factor, sum[begin + l]);
        factors[l] = finish.factor;
        targets[l] = p.o + query_offset(p.o_axes, r, row.i, row.head) * element_bytes(p.o_dtype);
        if (p.lse) p.lse[query_offset(p.lse_axes, r, row.i, row.head)] = finish.lse;
      }
      unpack_transposed(o_t + n * o_stride, kLanes, v * kWidth, static_cast<int>(live), p.d_v, load(factors), p.o_dtype, targets);
    }
  }

  void write_partial() {
    float* o_rows = task.partial + 2 * rows;
    for (int64_t x = 0; x < rows; ++x) {
      task.partial[x] = sum[x] == 0 ? FA_MINUS_INFINITY : top[x] * factor;
      task.partial[rows + x] = sum[x];
    }
    for (int64_t begin = 0; begin < rows; begin += kWidth) {
      const int64_t live = rows - begin < kWidth ? rows - begin : kWidth;
      char* targets[kWidth] = {};
      for (int64_t l = 0; l < live; ++l) targets[l] = reinterpret_cast<char*>(o_rows + (begin + l) * p.d_v);
      unpack_transposed(o_t + begin / kLanes * o_stride, kLanes, static_cast<int>(begin % kLanes), static_cast<int>(live), p.d_v,
                        set1(1.0f), DType::f32, targets);
    }
  }

  void run() {
    open_rows();
    attend_all();
    if (task.partial) {
      write_partial();
    } else {
      for (int64_t n = 0; n < panels; ++n) write_panel(n);
    }
  }
};

template <class Products>
static void run_panels(const ForwardParams& p, const Request& r, const ForwardTask& task, const PanelFormat& format,
                       char* scratch) {
  if (task.row_end - task.row_begin <= kWidth) {
    PanelLoop<Products, 1>(p, r, task, format, scratch).run();
  } else {
    PanelLoop<Products, FA_PANEL_VECTORS>(p, r, task, format, scratch).run();
  }
}
