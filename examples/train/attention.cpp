// See attention.h. The library's half shows how a training step uses it: two plans made once, strides that point into the fused
// projection, lse kept from forward to backward, and in bf16 gradients in fp32.
#include "attention.h"

#include "flash_attn/flash_attn.hpp"

#include <cmath>
#include <cstring>
#include <vector>

namespace train {
namespace {

namespace fa = flash_attn;

class Textbook final : public Attention {
 public:
  explicit Textbook(const AttentionShape& shape)
      : s_(shape), weights_(static_cast<size_t>(shape.batch * shape.heads * shape.length * shape.length)) {}

  void forward(const float* qkv, float* o) override {
    for (int64_t n = 0; n < s_.batch * s_.heads; ++n) {
      for (int64_t i = 0; i < s_.length; ++i) forward_row(qkv, n / s_.heads, n % s_.heads, i, o);
    }
  }

  void backward(const float* qkv, const float*, const float* dout, float* dqkv) override {
    std::memset(dqkv, 0, sizeof(float) * static_cast<size_t>(s_.batch * s_.length * s_.row()));
    for (int64_t n = 0; n < s_.batch * s_.heads; ++n) {
      for (int64_t i = 0; i < s_.length; ++i) backward_row(qkv, n / s_.heads, n % s_.heads, i, dout, dqkv);
    }
  }

 private:
  int64_t token(int64_t b, int64_t i) const { return (b * s_.length + i) * s_.row(); }
  int64_t key_at(int64_t b, int64_t head, int64_t j) const {
    return token(b, j) + s_.k_offset() + head / (s_.heads / s_.key_heads) * s_.dim;
  }
  int64_t value_at(int64_t b, int64_t head, int64_t j) const { return key_at(b, head, j) + s_.key_heads * s_.dim; }
  float* weights_of(int64_t b, int64_t head, int64_t i) {
    return &weights_[static_cast<size_t>(((b * s_.heads + head) * s_.length + i) * s_.length)];
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(s_.dim)); }

  float dot(const float* a, const float* b) const {
    float sum = 0.0f;
    for (int64_t c = 0; c < s_.dim; ++c) sum += a[c] * b[c];
    return sum;
  }
  void add(float factor, const float* x, float* y) const {
    for (int64_t c = 0; c < s_.dim; ++c) y[c] += factor * x[c];
  }

  void forward_row(const float* qkv, int64_t b, int64_t head, int64_t i, float* o) {
    float* const p = weights_of(b, head, i);
    const float* const q = qkv + token(b, i) + head * s_.dim;
    float top = -INFINITY, sum = 0.0f;
    for (int64_t j = 0; j <= i; ++j) {
      p[j] = scale() * dot(q, qkv + key_at(b, head, j));
      top = std::fmax(top, p[j]);
    }
    for (int64_t j = 0; j <= i; ++j) sum += p[j] = std::exp(p[j] - top);
    float* const row = o + (b * s_.length + i) * s_.o_row() + head * s_.dim;
    std::memset(row, 0, sizeof(float) * static_cast<size_t>(s_.dim));
    for (int64_t j = 0; j <= i; ++j) {
      p[j] /= sum;
      add(p[j], qkv + value_at(b, head, j), row);
    }
  }

  void backward_row(const float* qkv, int64_t b, int64_t head, int64_t i, const float* dout, float* dqkv) {
    const float* const p = weights_of(b, head, i);
    const float* const drow = dout + (b * s_.length + i) * s_.o_row() + head * s_.dim;
    const int64_t q_at = token(b, i) + head * s_.dim;
    float mean = 0.0f;
    for (int64_t j = 0; j <= i; ++j) mean += p[j] * dot(drow, qkv + value_at(b, head, j));
    for (int64_t j = 0; j <= i; ++j) {
      const float ds = scale() * p[j] * (dot(drow, qkv + value_at(b, head, j)) - mean);
      add(p[j], drow, dqkv + value_at(b, head, j));
      add(ds, qkv + key_at(b, head, j), dqkv + q_at);
      add(ds, qkv + q_at, dqkv + key_at(b, head, j));
    }
  }

  AttentionShape s_;
  std::vector<float> weights_;
};

uint16_t to_bf16(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float from_bf16(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float value = 0.0f;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

class Library final : public Attention {
 public:
  Library(const AttentionShape& shape, fa_dtype dtype)
      : s_(shape),
        dtype_(dtype),
        lse_(static_cast<size_t>(shape.batch * shape.heads * shape.length)),
        forward_plan_(call(nullptr, nullptr).desc),
        backward_plan_(backward_call(nullptr, nullptr, nullptr, nullptr).desc),
        forward_workspace_(forward_plan_),
        backward_workspace_(backward_plan_) {
    if (dtype == FA_DTYPE_F32) return;
    qkv16_.resize(static_cast<size_t>(s_.batch * s_.length * s_.row()));
    o16_.resize(static_cast<size_t>(s_.batch * s_.length * s_.o_row()));
    dout16_.resize(o16_.size());
  }

  void forward(const float* qkv, float* o) override {
    if (dtype_ == FA_DTYPE_F32) return forward_plan_.run(call(qkv, o).args, forward_workspace_.get());
    for (size_t n = 0; n < qkv16_.size(); ++n) qkv16_[n] = to_bf16(qkv[n]);
    forward_plan_.run(call(qkv16_.data(), o16_.data()).args, forward_workspace_.get());
    for (size_t n = 0; n < o16_.size(); ++n) o[n] = from_bf16(o16_[n]);
  }

  void backward(const float* qkv, const float* o, const float* dout, float* dqkv) override {
    if (dtype_ == FA_DTYPE_F32) {
      return backward_plan_.run(backward_call(qkv, o, dout, dqkv).args, backward_workspace_.get());
    }
    for (size_t n = 0; n < dout16_.size(); ++n) dout16_[n] = to_bf16(dout[n]);
    backward_plan_.run(backward_call(qkv16_.data(), o16_.data(), dout16_.data(), dqkv).args, backward_workspace_.get());
  }

 private:
  // One of q, k, v, or of their gradients, inside the fused rows.
  fa::Tensor slice(const void* rows, fa_dtype dtype, int64_t offset, int64_t heads) const {
    const auto* const bytes = static_cast<const char*>(rows);
    const int64_t element = dtype == FA_DTYPE_F32 ? 4 : 2;
    return fa::Tensor(static_cast<const void*>(bytes == nullptr ? nullptr : bytes + offset * element),
                      fa::tensor(dtype, {s_.batch, s_.length, heads, s_.dim}, {s_.length * s_.row(), s_.row(), s_.dim, 1}));
  }
  fa::Tensor output(const void* rows) const {
    return fa::Tensor(rows, fa::tensor(dtype_, {s_.batch, s_.length, s_.heads, s_.dim}));
  }

  fa::Options options() {
    fa::Options options;
    options.causal = true;
    options.lse = fa::Tensor(lse_.data(), {s_.batch, s_.heads, s_.length});
    return options;
  }

  fa::Call call(const void* qkv, const void* o) {
    return fa::Call(slice(qkv, dtype_, 0, s_.heads), slice(qkv, dtype_, s_.k_offset(), s_.key_heads),
                    slice(qkv, dtype_, s_.v_offset(), s_.key_heads), output(o), options());
  }

  fa::Call backward_call(const void* qkv, const void* o, const void* dout, float* dqkv) {
    fa::Gradients gradients;
    gradients.dout = output(dout);
    gradients.dq = slice(dqkv, FA_DTYPE_F32, 0, s_.heads);
    gradients.dk = slice(dqkv, FA_DTYPE_F32, s_.k_offset(), s_.key_heads);
    gradients.dv = slice(dqkv, FA_DTYPE_F32, s_.v_offset(), s_.key_heads);
    return fa::Call(slice(qkv, dtype_, 0, s_.heads), slice(qkv, dtype_, s_.k_offset(), s_.key_heads),
                    slice(qkv, dtype_, s_.v_offset(), s_.key_heads), output(o), gradients, options());
  }

  AttentionShape s_;
  fa_dtype dtype_;
  std::vector<float> lse_;
  std::vector<uint16_t> qkv16_, o16_, dout16_;
  fa::Plan forward_plan_, backward_plan_;
  fa::HostWorkspace forward_workspace_, backward_workspace_;
};

}  // namespace

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::textbook:
      return "textbook attention, fp32";
    case Kind::library_f32:
      return "flash-attn-lib, fp32";
    case Kind::library_bf16:
      return "flash-attn-lib, bf16";
  }
  return "";
}

std::unique_ptr<Attention> make_attention(Kind kind, const AttentionShape& shape) {
  if (kind == Kind::textbook) return std::make_unique<Textbook>(shape);
  return std::make_unique<Library>(shape, kind == Kind::library_f32 ? FA_DTYPE_F32 : FA_DTYPE_BF16);
}

}  // namespace train
