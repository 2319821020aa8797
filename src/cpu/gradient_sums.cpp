// What a backward run writes besides dq, dk and dv of live rows: gradients of sinks, slopes and summed biases, and zeros in dead
// rows.

#include "cpu/gradient_run.h"

#include "cpu/requests.h"

#include <algorithm>
#include <cstring>

namespace flash_attn::cpu {
namespace {

// The sum over a request's ranges of what each query head has.
double sum_ranges(const GradientRun& run, const double* base, int64_t r, int64_t head) {
  const Problem& p = run.problem;
  const GradientPlace& at = run.places[r];
  double sum = 0;
  for (int64_t range = 0; range < at.schedule.ranges; ++range)
    sum += base[(at.range + head / p.group * at.schedule.ranges + range) * p.group + head % p.group];
  return sum;
}

void collect_sinks(const GradientRun& run) {
  for (int64_t head = 0; head < run.problem.h_q; ++head) {
    double sum = 0;
    for (int64_t r = 0; r < run.problem.b; ++r) sum += sum_ranges(run, run.sinks, r, head);
    run.args.dsink[head] = static_cast<float>(sum);
  }
}

void collect_slopes(const GradientRun& run) {
  const Problem& p = run.problem;
  for (int64_t row = 0; row < p.dslopes_rows; ++row)
    for (int64_t head = 0; head < p.h_q; ++head) {
      double sum = 0;
      const int64_t end = p.dslopes_batch_stride == 0 ? p.b : row + 1;
      for (int64_t r = p.dslopes_batch_stride == 0 ? 0 : row; r < end; ++r) sum += sum_ranges(run, run.slopes, r, head);
      run.args.dslopes[row * p.dslopes_batch_stride + head] = static_cast<float>(sum);
    }
}

// Sums over rows: each range of a head adds its line.
void collect_by_key(const GradientRun& run) {
  const Problem& p = run.problem;
  for (int64_t r = 0; r < p.b; ++r) {
    const GradientPlace& at = run.places[r];
    const int64_t s_k = resolve_request(p, run.args, r).s_k;
    for (int64_t head = 0; head < p.h_q; ++head)
      for (int64_t range = 0; range < at.schedule.ranges; ++range) {
        const int64_t index = head / p.group * at.schedule.ranges + range;
        const float* const line = run.by_key + at.by_key + (index * p.group + head % p.group) * s_k;
        float* const to = run.params.dbias + r * p.dbias.batch + head * p.dbias.head;
        for (int64_t j = 0; j < s_k; ++j) to[j] += line[j];
      }
  }
}

// Sums over keys: one number a row, or where rows are summed too, one a head.
void collect_by_row(const GradientRun& run) {
  const Problem& p = run.problem;
  for (int64_t r = 0; r < p.b; ++r) {
    const Request request = resolve_request(p, run.args, r);
    for (int64_t head = 0; head < p.h_q; ++head) {
      const float* const rows = run.by_row + run.places[r].by_row + head / p.group * run.places[r].schedule.rows + head % p.group;
      float* const to = run.params.dbias + bias_offset(p.dbias, request, 0, head);
      double sum = 0;
      for (int64_t i = 0; i < request.s_q; ++i) {
        sum += rows[i * p.group];
        if (p.dbias.row != 0) to[i * p.dbias.row] += rows[i * p.group];
      }
      if (p.dbias.row == 0) *to += static_cast<float>(sum);
    }
  }
}

// Rows [begin, end) of one first index of a gradient.
struct GradientRows {
  char* base;
  const Axes& axes;
  DType dtype;
  int64_t heads, columns;
  bool adds;

  void clear(int64_t batch, int64_t begin, int64_t end) const {
    if (adds) return;
    const int64_t bytes = dtype_bytes(dtype);
    for (int64_t row = begin; row < end; ++row)
      for (int64_t head = 0; head < heads; ++head)
        std::memset(base + (batch * axes.batch + row * axes.row + head * axes.head) * bytes, 0,
                    static_cast<size_t>(columns * bytes));
  }
  // All rows [begin, end) but the live ones.
  void clear_around(int64_t batch, int64_t begin, int64_t end, int64_t live_begin, int64_t live_rows) const {
    if (live_rows == 0) return clear(batch, begin, end);
    clear(batch, begin, live_begin);
    clear(batch, live_begin + live_rows, end);
  }
};

}  // namespace

void collect_sums(GradientRun& run) {
  if (run.sinks) collect_sinks(run);
  if (run.slopes) collect_slopes(run);
  if (run.by_key) collect_by_key(run);
  if (run.by_row) collect_by_row(run);
}

void clear_dead_rows(GradientRun& run, int64_t index) {
  const Problem& p = run.problem;
  const BackwardParams& to = run.params;
  const GradientRows dq{to.dq, to.dq_axes, to.dq_dtype, p.h_q, p.d, to.adds_dq};
  const GradientRows dk{to.dk, to.dk_axes, to.dk_dtype, p.h_k, p.d, to.adds_dk};
  const GradientRows dv{to.dv, to.dv_axes, to.dv_dtype, p.h_k, p.d_v, to.adds_dv};
  if (index < p.b) {
    const Request r = resolve_request(p, run.args, index);
    const int64_t q_begin = p.packed_q ? run.args.cu_seqlens_q[index] : 0;
    const int64_t q_end = p.packed_q ? run.args.cu_seqlens_q[index + 1] : p.max_s_q;
    dq.clear_around(p.packed_q ? 0 : index, q_begin, q_end, r.q_row, r.s_q);
    const int64_t k_begin = p.packed_k ? run.args.cu_seqlens_k[index] : 0;
    const int64_t k_end = p.packed_k ? run.args.cu_seqlens_k[index + 1] : p.k_rows;
    for (const GradientRows& rows : {dk, dv}) rows.clear_around(r.k_batch, k_begin, k_end, r.k_row, r.s_k);
    return;
  }
  if (p.packed_q) {
    dq.clear(0, 0, run.args.cu_seqlens_q[0]);
    dq.clear(0, run.args.cu_seqlens_q[p.b], p.total_q);
  }
  if (!p.packed_k) return;
  for (const GradientRows& rows : {dk, dv}) {
    rows.clear(0, 0, run.args.cu_seqlens_k[0]);
    rows.clear(0, run.args.cu_seqlens_k[p.b], p.k_rows);
  }
}

}  // namespace flash_attn::cpu
