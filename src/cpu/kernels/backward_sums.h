// The end of dK and dV: the sums of a key head's ranges of rows are merged in the order of the ranges, scaled, and written in their
// dtypes. Included inside an instruction set's namespace, after backward.h.

// A dK or dV: where the first range's sums lie and where the gradient goes.
struct KeyGradient {
  const float* sums;
  int64_t padded, columns;
  float factor;
  DType dtype;
  bool adds;
  const Axes& axes;
  char* base;
};

static void sum_key_rows(const Request& r, const KeySumTask& task, const KeyGradient& to) {
  constexpr int64_t kRows = 8;  // at a time, so that each range is read in longer pieces
  alignas(64) float lines[kRows][512];
  for (int64_t begin = task.key_begin; begin < task.key_end; begin += kRows) {
    const int64_t end = begin + kRows < task.key_end ? begin + kRows : task.key_end;
    for (int64_t j = begin; j < end; ++j) __builtin_memset(lines[j - begin], 0, static_cast<size_t>(to.padded) * 4);
    for (int m = 0; m < task.ranges; ++m) {
      const int64_t first = begin > task.hulls[2 * m] ? begin : task.hulls[2 * m];
      const int64_t last = end < task.hulls[2 * m + 1] ? end : task.hulls[2 * m + 1];
      const float* row = to.sums + m * task.stride + first * to.padded;
      for (int64_t j = first; j < last; ++j, row += to.padded)
        for (int64_t c = 0; c < to.padded; c += kWidth) store(lines[j - begin] + c, load(lines[j - begin] + c) + load(row + c));
    }
    for (int64_t j = begin; j < end; ++j) {
      const int64_t at = r.k_batch * to.axes.batch + (r.k_row + j) * to.axes.row + task.head_k * to.axes.head;
      write_row(to.dtype, lines[j - begin], to.factor, to.adds, to.base + at * element_bytes(to.dtype), to.columns);
    }
  }
}

static void sum_keys(const BackwardParams& p, const Request& r, const KeySumTask& task) {
  sum_key_rows(r, task, {task.dk, p.padded_d, p.d, p.scale, p.dk_dtype, p.adds_dk, p.dk_axes, p.dk});
  sum_key_rows(r, task, {task.dv, p.padded_d_v, p.d_v, 1.0f, p.dv_dtype, p.adds_dv, p.dv_axes, p.dv});
}
