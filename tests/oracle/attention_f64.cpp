// See attention_f64.h. Both models share the visibility and addressing of view.h and differ in arithmetic only.
#include "tests/oracle/attention_f64.h"

#include "tests/oracle/values.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flash_attn::oracle {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// Keys and values of one request and key head, read once.
struct KeyValues {
  int64_t request = -1, key_head = -1;
  std::vector<std::vector<double>> k, v;

  void read(const View& view, int64_t r, int64_t head) {
    if (r == request && head == key_head) return;
    request = r;
    key_head = head;
    const int64_t s_k = view.request(r).s_k;
    k.assign(s_k, std::vector<double>(view.d()));
    v.assign(s_k, std::vector<double>(view.d_v()));
    for (int64_t j = 0; j < s_k; ++j) {
      view.key_row(r, head, j, &k[j]);
      view.value_row(r, head, j, &v[j]);
    }
  }
};

struct RowResult {
  std::vector<double> o;
  double lse = 0;
};

// Four partial sums, so that the compiler can overlap them.
double dot_f64(const std::vector<double>& a, const std::vector<double>& b) {
  double sum[4] = {0, 0, 0, 0};
  const size_t n = a.size();
  size_t c = 0;
  for (; c + 4 <= n; c += 4) {
    for (size_t t = 0; t < 4; ++t) sum[t] += a[c + t] * b[c + t];
  }
  for (; c < n; ++c) sum[0] += a[c] * b[c];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

float dot_f32(const std::vector<double>& a, const std::vector<double>& b) {
  float sum = 0.0f;
  for (size_t c = 0; c < a.size(); ++c) sum += static_cast<float>(a[c]) * static_cast<float>(b[c]);
  return sum;
}

// max that lets a NaN through.
template <class T>
T max_with_nan(T a, T b) {
  return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : std::max(a, b);
}

void exact_row(const View& view, const RowId& id, const std::vector<double>& q, const KeyValues& kv, RowResult* out) {
  const double softcap = view.desc().softcap, keep_scale = 1.0 / (1.0 - static_cast<double>(view.desc().dropout_p));
  const double sink = view.sink(id.head);
  std::vector<int64_t> keys;
  std::vector<double> scores;
  double top = sink;
  for (int64_t j = 0; j < view.request(id.request).s_k; ++j) {
    if (!view.is_visible(id.request, id.head, id.i, j)) continue;
    double score = view.scale() * dot_f64(q, kv.k[j]);
    if (softcap > 0) score = softcap * std::tanh(score / softcap);
    score += view.alibi_term(id.request, id.head, id.i, j);
    score += view.bias_term(id.request, id.head, id.i, j);
    keys.push_back(j);
    scores.push_back(score);
    top = max_with_nan(top, score);
  }
  out->o.assign(view.d_v(), 0.0);
  out->lse = kMinusInfinity;
  if (top == kMinusInfinity) return;
  double sum = std::exp(sink - top);
  for (const double score : scores) sum += std::exp(score - top);
  for (size_t t = 0; t < keys.size(); ++t) {
    if (!view.is_kept(id.request, id.head, id.i, keys[t])) continue;
    const double p = std::exp(scores[t] - top) / sum * keep_scale;
    for (int64_t c = 0; c < view.d_v(); ++c) out->o[c] += p * kv.v[keys[t]][c];
  }
  out->lse = top + std::log(sum);
}

void plain_row(const View& view, const RowId& id, const std::vector<double>& q, const KeyValues& kv, RowResult* out) {
  const fa_dtype dtype = view.desc().q.dtype;
  const float softcap = view.desc().softcap, keep_scale = 1.0f / (1.0f - view.desc().dropout_p);
  const float sink = static_cast<float>(view.sink(id.head)), scale = static_cast<float>(view.scale());
  std::vector<int64_t> keys;
  std::vector<float> scores;
  float top = sink;
  for (int64_t j = 0; j < view.request(id.request).s_k; ++j) {
    if (!view.is_visible(id.request, id.head, id.i, j)) continue;
    float score = round_value(dtype, scale * dot_f32(q, kv.k[j]));
    if (softcap > 0) score = softcap * std::tanh(score / softcap);
    score += static_cast<float>(view.alibi_term(id.request, id.head, id.i, j));
    score += static_cast<float>(view.bias_term(id.request, id.head, id.i, j));
    keys.push_back(j);
    scores.push_back(score);
    top = max_with_nan(top, score);
  }
  out->o.assign(view.d_v(), 0.0);
  out->lse = kMinusInfinity;
  if (top == -std::numeric_limits<float>::infinity()) return;
  float sum = std::exp(sink - top);
  for (const float score : scores) sum += std::exp(score - top);
  std::vector<float> o(view.d_v(), 0.0f);
  for (size_t t = 0; t < keys.size(); ++t) {
    if (!view.is_kept(id.request, id.head, id.i, keys[t])) continue;
    const float p = round_value(dtype, std::exp(scores[t] - top) / sum * keep_scale);
    for (int64_t c = 0; c < view.d_v(); ++c) o[c] += p * static_cast<float>(kv.v[keys[t]][c]);
  }
  for (int64_t c = 0; c < view.d_v(); ++c) out->o[c] = round_value(view.desc().o.dtype, o[c]);
  out->lse = top + std::log(sum);
}

}  // namespace

std::vector<RowId> all_rows(const View& view) {
  std::vector<RowId> rows;
  for (int64_t r = 0; r < view.batch(); ++r) {
    for (int64_t head = 0; head < view.heads(); ++head) {
      for (int64_t i = 0; i < view.request(r).s_q; ++i) rows.push_back({r, head, i});
    }
  }
  return rows;
}

std::vector<RowId> sampled_rows(const View& view, int64_t count) {
  const std::vector<RowId> rows = all_rows(view);
  const int64_t total = static_cast<int64_t>(rows.size());
  if (total <= count) return rows;
  std::vector<RowId> sample;
  int64_t next = 0;
  for (int64_t n = 0; n < total; ++n) {
    const RowId& row = rows[n];
    const int64_t s_q = view.request(row.request).s_q;
    const bool is_edge = row.head == 0 && (row.i == 0 || row.i == s_q - 1);
    if (!is_edge && n < next) continue;
    sample.push_back(row);
    if (n >= next) next = n + std::max<int64_t>(1, total / count);
  }
  return sample;
}

Result forward(const View& view, Model model, const std::vector<RowId>& rows) {
  Result result;
  result.rows = rows;
  result.o.reserve(rows.size() * static_cast<size_t>(view.d_v()));
  KeyValues kv;
  std::vector<double> q(view.d());
  RowResult row;
  for (const RowId& id : rows) {
    kv.read(view, id.request, id.head / view.group());
    for (int64_t c = 0; c < view.d(); ++c) q[c] = view.q(id.request, id.head, id.i, c);
    if (model == Model::exact) {
      exact_row(view, id, q, kv, &row);
    } else {
      plain_row(view, id, q, kv, &row);
    }
    result.o.insert(result.o.end(), row.o.begin(), row.o.end());
    result.lse.push_back(row.lse);
  }
  return result;
}

}  // namespace flash_attn::oracle
