// The backward kernel: gradients of a range of query rows against all keys they see. Rows come in blocks whose operands stay in a
// core's caches; for each block of keys and each panel of lanes the scores are made again, weights follow from the forward's lse,
// and dQ^T is added to; then dK and dV, of which the range has sums of its own, take what the block of rows adds. Written once over
// Products (backward_f32.h, backward_dot2.h, backward_amx.h). Included inside an instruction set's namespace, after those.

// Write `count` floats times `factor` as elements of a dtype, or add them to what is there. Destroys the line.
static void write_row(DType dtype, float* line, float factor, bool adds, char* target, int64_t count) {
  for (int64_t x = 0; x < count; ++x) line[x] *= factor;
  if (adds) {
    alignas(64) float old[512];
    widen_any_row(dtype, target, old, count);
    for (int64_t x = 0; x < count; ++x) line[x] += old[x];
  }
  narrow_row(dtype, line, target, count);
}

// What softcap's gradient is multiplied by: 1 - tanh^2 of the capped score.
static __attribute__((noinline)) void softcap_slopes(const ForwardParams& p, const float* products, int64_t keys, float* slopes) {
  const Vec factor = set1(p.scale), inverse = set1(1.0f / p.softcap);
  for (int64_t at = 0; at < keys * kPanelLanes; at += kWidth) {
    const Vec t = tanh_of(load(products + at) * factor * inverse);
    store(slopes + at, set1(1.0f) - t * t);
  }
}

// A lane's largest score so far and the sum of its exponentials move on over a panel's keys.
static __attribute__((noinline)) void renew_block(const float* scores, int64_t keys, const WeightRule& rule, float* top,
                                                  float* sum) {
  for (int v = 0; v < FA_PANEL_VECTORS; ++v) {
    const Vec old_top = load(top + v * kWidth);
    Vec new_top = old_top;
    for (int64_t j = 0; j < keys; ++j) new_top = maximum(new_top, load(scores + j * kPanelLanes + v * kWidth));
    const Vec base = maximum(set1(-__FLT_MAX__), new_top);  // finite, so that inf - inf never is
    Vec new_sum = load(sum + v * kWidth) * rule.template weigh<5>(old_top, base);
    for (int64_t j = 0; j < keys; ++j) new_sum += rule.template weigh<5>(load(scores + j * kPanelLanes + v * kWidth), base);
    store(top + v * kWidth, new_top);
    store(sum + v * kWidth, new_sum);
  }
}

// values *= a factor a lane.
static void multiply_lanes(float* values, const float* factors, int64_t keys) {
  for (int64_t j = 0; j < keys; ++j)
    for (int l = 0; l < kPanelLanes; l += kWidth)
      store(values + j * kPanelLanes + l, load(values + j * kPanelLanes + l) * load(factors + l));
}

// The last bit of an lse beyond this would show in the weights: then the denominators are made again.
constexpr float kLargestLse = 512.0f;

template <class Products>
struct BackwardLoop {
  static constexpr int kLanes = kPanelLanes;
  static constexpr int64_t kElement = Products::kIsDot2 ? 2 : 4;

  const BackwardParams& p;
  const Request& r;
  const BackwardTask& task;
  int64_t row_begin = 0, rows = 0, panels = 0;  // the open block of rows
  char *q_t, *dout_t, *o_t, *q_rows, *dout_rows, *k_copy, *v_copy, *k_pairs, *weights, *dscores;
  float *dq_t, *panel_scores, *panel_dscores, *extra, *keep, *slopes, *lines;
  uint32_t* panel_pairs;
  float *top, *delta, *slope_sums, *shares;
  RowSpans spans;
  bool scored;              // scores come out of score_pass, in the log2 domain
  bool is_plain;            // nothing stands between the weights' gradients and the scores'
  bool is_renewed = false;  // top is the largest score, and shares are what its exponentials are multiplied by
  float factor;             // from stored scores to the log2 domain
  WeightRule rule{1.0f};
  PanelReach reach[kMaxPanels];

  BackwardLoop(const BackwardParams& params, const Request& request, const BackwardTask& t, const GradientFormat& format,
               char* scratch)
      : p(params), r(request), task(t) {
    const GradientScratch at(format, p.d, p.d_v, p.block_rows, p.block_keys);
    const auto floats = [scratch](int64_t offset) { return reinterpret_cast<float*>(scratch + offset); };
    q_t = scratch + at.q_t;
    dout_t = scratch + at.dout_t;
    o_t = scratch + at.o_t;
    q_rows = scratch + at.q_rows;
    dout_rows = scratch + at.dout_rows;
    dq_t = floats(at.dq_t);
    k_copy = scratch + at.k_copy;
    v_copy = scratch + at.v_copy;
    k_pairs = scratch + at.k_pairs;
    weights = scratch + at.weights;
    dscores = scratch + at.dscores;
    panel_scores = floats(at.panel_scores);
    panel_dscores = floats(at.panel_dscores);
    panel_pairs = reinterpret_cast<uint32_t*>(scratch + at.panel_pairs);
    extra = floats(at.extra);
    keep = floats(at.keep);
    slopes = floats(at.slopes);
    lines = floats(at.lines);
    top = floats(at.stats);
    delta = top + p.block_rows;
    slope_sums = delta + p.block_rows;
    shares = slope_sums + p.block_rows;
    spans = RowSpans(reinterpret_cast<char*>(shares + p.block_rows), p.block_rows);
    scored = needs_score_pass(p, r);
    is_plain = p.softcap == 0 && p.dropout_threshold == 0 && !task.slopes && !task.by_key && !task.by_row && !task.adds_to_dbias;
    factor = scored ? 1.0f : p.scale * kLog2E;
    rule = WeightRule(factor);
  }

  int64_t panel_bytes() const { return p.block_keys * kLanes * kElement; }
  int64_t lane_bytes(int64_t padded) const { return padded * kLanes * kElement; }
  RowPlace place(int64_t x) const { return place_of(p, task.head, row_begin + x); }

  float lse_of(RowPlace row) const { return p.lse[query_offset(p.lse_axes, r, row.i, row.head)]; }

  // What a row's weights and gradients are measured from.
  void open_row(int64_t x) {
    const RowPlace row = place(x);
    const float lse = lse_of(row);
    if (lse == FA_MINUS_INFINITY) {  // sees nothing: all its weights are 0
      delta[x] = 0;
      return;
    }
    is_renewed = is_renewed || lse > kLargestLse || lse < -kLargestLse;
    top[x] = lse * (scored ? kLog2E : 1.0f / p.scale);
    if (p.dlse) delta[x] -= p.dlse[query_offset(p.dlse_axes, r, row.i, row.head)];
  }

  // The rows' largest scores and denominators from the scores as they are made here, instead of from lse.
  void renew_rows(int64_t begin, int64_t end) {
    for (int64_t x = 0; x < panels * kLanes; ++x) {
      top[x] = x < rows && p.sink ? p.sink[place(x).head] * (scored ? kLog2E : 1.0f / p.scale) : FA_MINUS_INFINITY;
      shares[x] = top[x] > FA_MINUS_INFINITY ? 1.0f : 0.0f;
    }
    for (int64_t key = begin; key < end; key += p.block_keys) {
      const int64_t key_end = key + p.block_keys < end ? key + p.block_keys : end;
      PanelStep steps[kMaxPanels];
      const int count = meeting_panels(reach, panels, key, key_end, Products::kKeyStep, steps);
      if (count == 0) continue;
      const typename Products::Block block = Products::open_block(p, r, task.head_k, key, key_end - key, k_copy, v_copy, k_pairs);
      float* const scores = Products::kIsDot2 ? panel_scores : reinterpret_cast<float*>(weights);
      for (int s = 0; s < count; ++s) {
        const PanelStep& at = steps[s];
        Products::scores(p, block, at.begin - key, at.end - at.begin, q_t + at.n * lane_bytes(p.padded_d), scores);
        settle(at, scores);
        renew_block(scores, at.end - at.begin, rule, top + at.n * kLanes, shares + at.n * kLanes);
      }
    }
    for (int64_t x = 0; x < panels * kLanes; ++x) {
      if (shares[x] == 0) top[x] = __builtin_inff();
      shares[x] = shares[x] == 0 ? 0.0f : 1.0f / shares[x];
    }
  }

  // The sinks' share of the rows' gradients.
  void take_sinks() {
    for (int64_t x = 0; x < rows; ++x) {
      const RowPlace row = place(x);
      if (lse_of(row) == FA_MINUS_INFINITY) continue;
      const float sink = p.sink[row.head];
      const float share = is_renewed ? __builtin_exp2f((sink * (scored ? kLog2E : 1.0f / p.scale) - top[x]) * factor) * shares[x]
                                     : __builtin_exp2f((sink - lse_of(row)) * kLog2E);
      task.sinks[row.head - task.head * p.group] -= static_cast<double>(share) * delta[x];
    }
  }

  void open_panel(int64_t n) {
    const char *q_lanes[kLanes] = {}, *dout_lanes[kLanes] = {}, *o_lanes[kLanes] = {};
    const int64_t live = rows - n * kLanes < kLanes ? rows - n * kLanes : kLanes;
    for (int64_t l = 0; l < live; ++l) {
      const RowPlace row = place(n * kLanes + l);
      q_lanes[l] = p.q + query_offset(p.q_axes, r, row.i, row.head) * element_bytes(p.dtype);
      dout_lanes[l] = p.dout + query_offset(p.dout_axes, r, row.i, row.head) * element_bytes(p.o_dtype);
      o_lanes[l] = p.o + query_offset(p.o_axes, r, row.i, row.head) * element_bytes(p.o_dtype);
    }
    reach[n] = spans.reach(n * kLanes, n * kLanes + live);
    char* const dout_panel = dout_t + n * lane_bytes(p.padded_d_v);
    Products::pack_lanes(p.dtype, q_lanes, p.d, p.padded_d, q_t + n * lane_bytes(p.padded_d));
    Products::pack_lanes(p.o_dtype, dout_lanes, p.d_v, p.padded_d_v, dout_panel);
    Products::pack_lanes(p.o_dtype, o_lanes, p.d_v, p.padded_d_v, o_t);
    Products::pack_rows(p.dtype, q_lanes, p.d, p.padded_d, q_rows + n * lane_bytes(p.padded_d));
    Products::pack_rows(p.o_dtype, dout_lanes, p.d_v, p.padded_d_v, dout_rows + n * lane_bytes(p.padded_d_v));
    Products::dot_lanes(o_t, dout_panel, p.d_v, delta + n * kLanes);
    for (int64_t x = n * kLanes; x < (n + 1) * kLanes; ++x) {
      top[x] = __builtin_inff();
      slope_sums[x] = 0;
      if (x < rows) open_row(x);
    }
  }

  void open_rows(int64_t row, int64_t key_begin, int64_t key_end) {
    row_begin = row;
    is_renewed = false;
    rows = task.row_end - row < p.block_rows ? task.row_end - row : p.block_rows;
    panels = (rows + kLanes - 1) / kLanes;
    spans.read(p, r, task.head, row_begin, rows, panels * kLanes);
    for (int64_t n = 0; n < panels; ++n) open_panel(n);
    if (is_renewed) renew_rows(key_begin, key_end);
    if (task.sinks) take_sinks();
    if (task.dk) __builtin_memset(dq_t, 0, static_cast<size_t>(panels * p.padded_d * kLanes) * 4);
  }

  // Raw scores become final ones where masks or bias want it.
  void settle(const PanelStep& at, float* scores) {
    const int64_t row = at.n * kLanes, keys = at.end - at.begin;
    const bool has_edge = !reach[at.n].covers(at.begin, at.end);
    Vec unused[FA_PANEL_VECTORS] = {};
    if (scored) {
      if (p.softcap > 0) softcap_slopes(p, scores, keys, slopes);
      const bool with_extra = p.bias || p.mask || (r.is_tree && at.end > r.tree_prefix);
      const int64_t live = rows - row < kLanes ? rows - row : kLanes;
      if (with_extra) fill_extra(p, r, task.head, row_begin + row, static_cast<int>(live), kLanes, at.begin, keys, extra);
      score_pass<FA_PANEL_VECTORS>(p, spans.lanes(row), at.begin, keys, has_edge, with_extra ? extra : nullptr, scores, unused);
    } else if (has_edge) {
      mask_pass<FA_PANEL_VECTORS>(spans.lanes(row), at.begin, keys, scores, unused);
    }
  }

  // Gradients of what is added to the scores: bias and slopes.
  void take_additions(const PanelStep& at, const float* score_gradients) {
    const int64_t row = at.n * kLanes, keys = at.end - at.begin;
    for (int64_t l = 0; l < kLanes && row + l < rows; ++l) {
      const RowPlace place_l = place(row + l);
      const int64_t in_group = place_l.head - task.head * p.group;
      const float* column = score_gradients + l;
      float sum = 0, distances = 0;
      for (int64_t j = 0; j < keys; ++j) {
        const int64_t distance = spans.diagonal[row + l] - (at.begin + j);
        sum += column[j * kLanes];
        distances += column[j * kLanes] * static_cast<float>(distance < 0 ? -distance : distance);
      }
      slope_sums[row + l] -= distances;
      if (task.by_row) task.by_row[row_begin + row + l - task.row_begin] += sum;
      if (task.by_key)
        for (int64_t j = 0; j < keys; ++j) task.by_key[in_group * r.s_k + at.begin + j] += column[j * kLanes];
      if (task.adds_to_dbias) {
        float* to = p.dbias + bias_offset(p.dbias_axes, r, place_l.i, place_l.head) + at.begin * p.dbias_axes.key;
        for (int64_t j = 0; j < keys; ++j) to[j * p.dbias_axes.key] += column[j * kLanes];
      }
    }
  }

  // One panel and what it sees of the open block of keys: its weights, its scores' gradients, and what they add to dQ^T.
  void differentiate(const typename Products::Block& block, int64_t block_begin, const PanelStep& at) {
    const int64_t keys = at.end - at.begin, offset = at.begin - block_begin, row = at.n * kLanes;
    char* const panel_weights = weights + at.n * panel_bytes() + offset * kLanes * kElement;
    char* const panel_gradients = dscores + at.n * panel_bytes() + offset * kLanes * kElement;
    float* const scores = Products::kIsDot2 ? panel_scores : reinterpret_cast<float*>(panel_weights);
    float* const gradients = Products::kIsDot2 ? panel_dscores : reinterpret_cast<float*>(panel_gradients);
    Products::scores(p, block, offset, keys, q_t + at.n * lane_bytes(p.padded_d), scores);
    Products::weight_gradients(p, block, offset, keys, dout_t + at.n * lane_bytes(p.padded_d_v), gradients);
    settle(at, scores);
    Vec tops[FA_PANEL_VECTORS], deltas[FA_PANEL_VECTORS];
    FA_UNROLL for (int v = 0; v < FA_PANEL_VECTORS; ++v) {
      tops[v] = load(top + row + v * kWidth);
      deltas[v] = load(delta + row + v * kWidth);
    }
    if (is_plain && !is_renewed) {
      Products::score_gradients(scores, gradients, keys, rule, tops, deltas, panel_weights, panel_gradients, panel_pairs);
    } else {
      const int64_t live = rows - row < kLanes ? rows - row : kLanes;
      if (p.dropout_threshold > 0) {
        fill_keep<FA_PANEL_VECTORS>(p, r, task.head, row_begin + row, live, at.begin, keys, p.keep_scale, keep);
        multiply_all(gradients, keep, keys * kLanes);
      }
      gradient_block<Products::kExpDegree>(scores, gradients, keys, rule, tops, deltas);
      if (is_renewed) {
        multiply_lanes(scores, shares + row, keys);
        multiply_lanes(gradients, shares + row, keys);
      }
      if (p.dropout_threshold > 0) multiply_all(scores, keep, keys * kLanes);
      if (task.slopes || task.by_key || task.by_row || task.adds_to_dbias) take_additions(at, gradients);
      if (!task.dk) return;
      if (p.softcap > 0) multiply_all(gradients, slopes, keys * kLanes);
      Products::narrow(scores, gradients, keys, panel_weights, panel_gradients, panel_pairs);
    }
    Products::add_dq(p, block, offset, keys, gradients, panel_pairs, dq_t + at.n * p.padded_d * kLanes);
  }

  // Keys that a panel of the block did not reach weigh nothing.
  void clear_outside(const PanelStep& at, int64_t block_begin, int64_t block_end) {
    const int64_t line = kLanes * kElement, head = at.begin - block_begin, tail = block_end - at.end;
    for (char* panel : {weights + at.n * panel_bytes(), dscores + at.n * panel_bytes()}) {
      if (head > 0) __builtin_memset(panel, 0, static_cast<size_t>(head * line));
      if (tail > 0) __builtin_memset(panel + (at.end - block_begin) * line, 0, static_cast<size_t>(tail * line));
    }
  }

  // No block of rows has added to the sums yet: what the open one adds is what they are.
  bool is_first() const { return row_begin == task.row_begin; }

  void clear_sums(int64_t begin, int64_t end) {
    __builtin_memset(task.dk + begin * p.padded_d, 0, static_cast<size_t>((end - begin) * p.padded_d) * 4);
    __builtin_memset(task.dv + begin * p.padded_d_v, 0, static_cast<size_t>((end - begin) * p.padded_d_v) * 4);
  }

  // dK and dV of the open block of keys, a run of keys at a time that the same panels reach.
  void add_keys(int64_t block_begin, int64_t block_end, const PanelStep* steps, int count) {
    constexpr int64_t kRun = Products::kKeyRun;
    for (int64_t begin = block_begin; begin < block_end;) {
      int64_t end = begin, first = -1, last = -1;
      while (end < block_end) {
        const int64_t next = end + kRun < block_end ? end + kRun : block_end;
        int64_t from = -1, to = -1;
        for (int s = 0; s < count; ++s)
          if (steps[s].begin < next && steps[s].end > end) {
            from = from < 0 ? steps[s].n : from;
            to = steps[s].n;
          }
        if (end > begin && (from != first || to != last)) break;
        first = from;
        last = to;
        end = next;
      }
      if (first < 0) {
        if (is_first()) clear_sums(begin, end);
      } else {
        const int64_t offset = (begin - block_begin) * kLanes * kElement + first * panel_bytes(), n = last - first + 1;
        Products::add_keys(weights + offset, panel_bytes(), n, dout_rows + first * lane_bytes(p.padded_d_v), p.padded_d_v,
                           task.dv + begin * p.padded_d_v, end - begin, !is_first());
        Products::add_keys(dscores + offset, panel_bytes(), n, q_rows + first * lane_bytes(p.padded_d), p.padded_d,
                           task.dk + begin * p.padded_d, end - begin, !is_first());
      }
      begin = end;
    }
  }

  void attend_block(int64_t begin, int64_t end) {
    PanelStep steps[kMaxPanels];
    const int count = meeting_panels(reach, panels, begin, end, Products::kKeyStep, steps);
    if (count == 0) {
      if (task.dk && is_first()) clear_sums(begin, end);
      return;
    }
    const typename Products::Block block = Products::open_block(p, r, task.head_k, begin, end - begin, k_copy, v_copy, k_pairs);
    for (int s = 0; s < count; ++s) differentiate(block, begin, steps[s]);
    if (!task.dk) return;
    int s = 0;
    for (int64_t n = steps[0].n; n <= steps[count - 1].n; ++n) {
      if (steps[s].n == n)
        clear_outside(steps[s++], begin, end);
      else
        clear_outside({n, begin, begin}, begin, end);
    }
    add_keys(begin, end, steps, count);
  }

  // The keys that any of the task's rows sees, from the start of a block on.
  void find_hull(int64_t* begin, int64_t* end) {
    *begin = INT64_MAX;
    *end = 0;
    for (int64_t row = task.row_begin; row < task.row_end; row += p.block_rows) {
      const int64_t count = task.row_end - row < p.block_rows ? task.row_end - row : p.block_rows;
      spans.read(p, r, task.head, row, count, count);
      const PanelReach all = spans.reach(0, count);
      if (all.end() == 0) continue;
      *begin = all.begin() < *begin ? all.begin() : *begin;
      *end = all.end() > *end ? all.end() : *end;
    }
    if (*begin >= *end) *begin = *end = 0;
    *begin = *begin / p.block_keys * p.block_keys;
  }

  void write_dq() {
    const int64_t bytes = element_bytes(p.dq_dtype);
    for (int64_t begin = 0; begin < rows; begin += kWidth) {
      const int64_t live = rows - begin < kWidth ? rows - begin : kWidth;
      char* targets[kWidth] = {};
      for (int64_t l = 0; l < live; ++l) targets[l] = reinterpret_cast<char*>(lines + l * p.padded_d);
      unpack_transposed(dq_t + begin / kLanes * p.padded_d * kLanes, kLanes, static_cast<int>(begin % kLanes),
                        static_cast<int>(live), p.d, set1(p.scale), DType::f32, targets);
      for (int64_t l = 0; l < live; ++l) {
        const RowPlace row = place(begin + l);
        write_row(p.dq_dtype, lines + l * p.padded_d, 1.0f, p.adds_dq, p.dq + query_offset(p.dq_axes, r, row.i, row.head) * bytes,
                  p.d);
      }
    }
  }

  void run() {
    int64_t hull_begin, hull_end;
    find_hull(&hull_begin, &hull_end);
    const int64_t begin = hull_begin > task.key_begin ? hull_begin : task.key_begin;
    const int64_t end = hull_end < task.key_end ? hull_end : task.key_end;
    if (task.hull) task.hull[0] = begin, task.hull[1] = end;
    for (int64_t row = task.row_begin; row < task.row_end; row += p.block_rows) {
      open_rows(row, hull_begin, hull_end);
      for (int64_t key = begin; key < end; key += p.block_keys)
        attend_block(key, key + p.block_keys < end ? key + p.block_keys : end);
      if (task.dk) write_dq();
      for (int64_t x = 0; task.slopes && x < rows; ++x) task.slopes[place(x).head - task.head * p.group] += slope_sums[x];
    }
  }
};
