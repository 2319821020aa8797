// See backward_f64.h. Both models run through the same loops in double; the plain one rounds after every operation that a naive
// implementation does in fp32 or in the input type.
#include "tests/oracle/backward_f64.h"

#include "tests/oracle/values.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flash_attn::oracle {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// The same shape without gaps.
fa_tensor_desc compacted(fa_tensor_desc tensor) {
  int64_t stride = 1;
  for (int axis = tensor.rank - 1; axis >= 0; --axis) {
    tensor.stride[axis] = stride;
    stride *= tensor.shape[axis];
  }
  return tensor;
}

int64_t elements_of(const fa_tensor_desc& tensor) {
  if (tensor.dtype == FA_DTYPE_NONE) return 0;
  int64_t elements = 1;
  for (int axis = 0; axis < tensor.rank; ++axis) elements *= tensor.shape[axis];
  return elements;
}

// What one model rounds to what. The exact one rounds nothing.
template <Model kModel>
struct Arithmetic {
  static constexpr bool kPlain = kModel == Model::plain;
  fa_dtype input, output;

  static double f32(double value) { return kPlain ? static_cast<double>(static_cast<float>(value)) : value; }
  static double exp(double value) { return kPlain ? std::exp(static_cast<float>(value)) : std::exp(value); }
  static double tanh(double value) { return kPlain ? std::tanh(static_cast<float>(value)) : std::tanh(value); }
  double to_input(double value) const { return kPlain ? round_value(input, static_cast<float>(value)) : value; }
  double to_output(double value) const { return kPlain ? round_value(output, static_cast<float>(value)) : value; }

  double dot(const std::vector<double>& a, const std::vector<double>& b) const {
    double sum = 0.0;
    for (size_t c = 0; c < a.size(); ++c) sum = f32(sum + a[c] * b[c]);
    return sum;
  }
};

// One visible key of a row.
struct Pair {
  int64_t j = 0;
  double score = 0, capped = 0;  // capped: after softcap, before ALiBi and bias
  double p = 0, kept = 0;        // weight; weight that dropout lets through, scaled
  double keep = 0;               // 0 or 1 / (1 - p)
};

template <Model kModel>
class Backward {
 public:
  explicit Backward(const View& view)
      : view_(view), math_{view.desc().q.dtype, view.desc().o.dtype}, softcap_(view.desc().softcap) {
    const fa_attention_desc& desc = view.desc();
    dq_ = compacted(desc.dq);
    dk_ = compacted(desc.dk);
    dv_ = compacted(desc.dv);
    dbias_ = compacted(desc.dbias);
    out_.dq.resize(elements_of(desc.dq));
    out_.dk.resize(elements_of(desc.dk));
    out_.dv.resize(elements_of(desc.dv));
    out_.dbias.resize(elements_of(desc.dbias));
    out_.dsink.resize(elements_of(desc.dsink));
    out_.dslopes.resize(elements_of(desc.dslopes));
  }

  Gradients run() {
    for (int64_t r = 0; r < view_.batch(); ++r) {
      for (int64_t key_head = 0; key_head < view_.key_heads(); ++key_head) {
        read_keys(r, key_head);
        for (int64_t head = key_head * view_.group(); head < (key_head + 1) * view_.group(); ++head) {
          for (int64_t i = 0; i < view_.request(r).s_q; ++i) add_row({r, head, i});
        }
      }
    }
    return std::move(out_);
  }

 private:
  void read_keys(int64_t r, int64_t key_head) {
    k_.assign(view_.request(r).s_k, std::vector<double>(view_.d()));
    v_.assign(view_.request(r).s_k, std::vector<double>(view_.d_v()));
    for (int64_t j = 0; j < view_.request(r).s_k; ++j) {
      view_.key_row(r, key_head, j, &k_[j]);
      view_.value_row(r, key_head, j, &v_[j]);
    }
  }

  void add_row(const RowId& id);
  // The row's visible keys with their weights; returns the weight of the sink. No keys if nothing is visible.
  double weigh(const RowId& id);
  void add_pair(const RowId& id, const Pair& pair, double row_sum);

  void add(Gradient* gradient, int64_t at, double value) const {
    double& sum = gradient->values[static_cast<size_t>(at)];
    sum = math_.f32(sum + value);
    gradient->live[static_cast<size_t>(at)] = 1;
  }

  const View& view_;
  Arithmetic<kModel> math_;
  double softcap_;
  fa_tensor_desc dq_, dk_, dv_, dbias_;
  Gradients out_;
  std::vector<std::vector<double>> k_, v_;
  std::vector<double> q_, dout_, o_;
  std::vector<Pair> pairs_;
};

template <Model kModel>
double Backward<kModel>::weigh(const RowId& id) {
  const double keep_scale = math_.f32(1.0 / (1.0 - static_cast<double>(view_.desc().dropout_p)));
  const double sink = view_.sink(id.head);
  double top = sink;
  pairs_.clear();
  for (int64_t j = 0; j < view_.request(id.request).s_k; ++j) {
    if (!view_.is_visible(id.request, id.head, id.i, j)) continue;
    Pair pair;
    pair.j = j;
    pair.capped = math_.to_input(math_.f32(view_.scale() * math_.dot(q_, k_[j])));
    if (softcap_ > 0) pair.capped = math_.f32(softcap_ * math_.tanh(pair.capped / softcap_));
    pair.score = math_.f32(pair.capped + view_.alibi_term(id.request, id.head, id.i, j));
    pair.score = math_.f32(pair.score + view_.bias_term(id.request, id.head, id.i, j));
    pair.keep = view_.is_kept(id.request, id.head, id.i, j) ? keep_scale : 0.0;
    pairs_.push_back(pair);
    top = std::max(top, pair.score);
  }
  if (top == kMinusInfinity) {
    pairs_.clear();
    return 0.0;
  }
  double sum = math_.exp(sink - top);
  for (const Pair& pair : pairs_) sum = math_.f32(sum + math_.exp(pair.score - top));
  for (Pair& pair : pairs_) {
    pair.p = math_.f32(math_.exp(pair.score - top) / sum);
    pair.kept = math_.to_input(pair.p * pair.keep);
  }
  return math_.f32(math_.exp(sink - top) / sum);
}

template <Model kModel>
void Backward<kModel>::add_row(const RowId& id) {
  q_.resize(view_.d());
  dout_.resize(view_.d_v());
  for (int64_t c = 0; c < view_.d(); ++c) q_[c] = view_.q(id.request, id.head, id.i, c);
  view_.dout_row(id.request, id.head, id.i, &dout_);
  const double sink_weight = weigh(id);
  o_.assign(view_.d_v(), 0.0);
  for (const Pair& pair : pairs_) {
    for (int64_t c = 0; c < view_.d_v(); ++c) o_[c] = math_.f32(o_[c] + pair.kept * v_[pair.j][c]);
  }
  for (double& o : o_) o = math_.to_output(o);
  // d(loss)/d(score_j) is p_j (dp_j - sum over l of p_l dp_l + dlse), and that sum is do * o.
  const double row_sum = math_.f32(math_.dot(dout_, o_) - view_.dlse(id.request, id.head, id.i));
  for (const Pair& pair : pairs_) add_pair(id, pair, row_sum);
  if (!out_.dsink.values.empty()) add(&out_.dsink, id.head, -sink_weight * row_sum);
}

template <Model kModel>
void Backward<kModel>::add_pair(const RowId& id, const Pair& pair, double row_sum) {
  const int64_t key_head = id.head / view_.group();
  const double dp = math_.f32(math_.to_input(math_.dot(dout_, v_[pair.j])) * pair.keep);
  double ds = math_.f32(pair.p * (dp - row_sum));
  if (!out_.dbias.values.empty()) add(&out_.dbias, view_.score_offset(dbias_, id.request, id.head, id.i, pair.j), ds);
  if (!out_.dslopes.values.empty()) {
    const int64_t first = view_.desc().dslopes.rank == 1 ? 0 : id.request * view_.heads();
    add(&out_.dslopes, first + id.head, -ds * view_.distance(id.request, id.i, pair.j));
  }
  if (softcap_ > 0) ds = math_.f32(ds * (1.0 - (pair.capped / softcap_) * (pair.capped / softcap_)));
  const double dx = view_.scale() * math_.to_input(ds);
  const int64_t dq_at = view_.query_offset(dq_, id.request, id.head, id.i);
  const int64_t dk_at = view_.key_offset(dk_, id.request, key_head, pair.j);
  const int64_t dv_at = view_.key_offset(dv_, id.request, key_head, pair.j);
  for (int64_t c = 0; c < view_.d(); ++c) {
    add(&out_.dq, dq_at + c, dx * k_[pair.j][c]);
    add(&out_.dk, dk_at + c, dx * q_[c]);
  }
  for (int64_t c = 0; c < view_.d_v(); ++c) add(&out_.dv, dv_at + c, pair.kept * dout_[c]);
}

}  // namespace

Gradients backward(const View& view, Model model) {
  return model == Model::exact ? Backward<Model::exact>(view).run() : Backward<Model::plain>(view).run();
}

}  // namespace flash_attn::oracle
