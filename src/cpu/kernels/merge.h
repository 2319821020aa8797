// Merges the split results of a row block in split order and finishes the rows; the sink joins here, once. Included inside an
// instruction set's namespace, after scores.h.

static void merge_rows(const ForwardParams& p, const Request& r, const MergeTask& task) {
  const int64_t rows = task.row_end - task.row_begin;
  alignas(64) float line[512];
  for (int64_t x = 0; x < rows; ++x) {
    float top = FA_MINUS_INFINITY;
    for (int s = 0; s < task.num_splits; ++s) {
      const float split_top = task.partials[s * task.stride + x];
      top = top > split_top ? top : split_top;  // a NaN stays in the sum below
    }
    const float base = top > -__FLT_MAX__ ? top : -__FLT_MAX__;
    float sum = 0;
    for (int64_t c = 0; c < p.d_v; ++c) line[c] = 0;
    for (int s = 0; s < task.num_splits; ++s) {
      const float* partial = task.partials + s * task.stride;
      const float split_sum = partial[rows + x];
      if (split_sum == 0) continue;
      const float weight = __builtin_exp2f(partial[x] - base);
      sum += split_sum * weight;
      const float* o_row = partial + 2 * rows + x * p.d_v;
      for (int64_t c = 0; c < p.d_v; ++c) line[c] += o_row[c] * weight;
    }
    const RowPlace row = place_of(p, task.head_k, task.row_begin + x);
    const RowFinish finish = finish_row(p, row.head, top, sum);
    for (int64_t c = 0; c < p.d_v; ++c) line[c] *= finish.factor;
    narrow_row(p.o_dtype, line, p.o + query_offset(p.o_axes, r, row.i, row.head) * element_bytes(p.o_dtype), p.d_v);
    if (p.lse) p.lse[query_offset(p.lse_axes, r, row.i, row.head)] = finish.lse;
  }
}
