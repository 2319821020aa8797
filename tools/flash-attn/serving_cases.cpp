// See serving_cases.h. Head dims and heads are those of current models; each phase of an engine is one function.
#include "serving_cases.h"

#include "engine.h"
#include "shapes.h"

namespace flash_attn::tool {
namespace {

struct Model {
  fa_dtype dtype;
  int64_t d, d_v, h_q, h_k;
};

using Change = void (*)(fa_attention_desc*);

void full(fa_attention_desc*) {}
void causal(fa_attention_desc* desc) { desc->mask_kind = FA_MASK_CAUSAL; }
void causal_window(fa_attention_desc* desc) {
  desc->mask_kind = FA_MASK_CAUSAL;
  desc->window_left = 511;
}

class Cases {
 public:
  std::vector<fa_attention_desc> take() { return std::move(cases_); }

  using Maker = fa_attention_desc (*)(const Shape&);
  void add(Maker maker, const Model& model, int64_t batch, int64_t rows, int64_t keys, Change change) {
    fa_attention_desc desc = maker({model.dtype, batch, rows, keys, model.h_q, model.h_k, model.d, model.d_v});
    change(&desc);
    cases_.push_back(desc);
  }

  // Of the case added last.
  void add_backward() {
    fa_attention_desc desc = cases_.back();
    desc.direction = FA_BACKWARD;
    desc.dout = desc.o;
    desc.dq = desc.q;
    desc.dk = desc.k;
    desc.dv = desc.v;
    cases_.push_back(desc);
  }

 private:
  std::vector<fa_attention_desc> cases_;
};

constexpr Change kMasks[] = {full, causal, causal_window};

void add_prefill(const Model& model, Cases* cases) {
  for (const Change change : kMasks) {
    for (const int64_t length : {64, 128, 512, 2048, 8192, 32768}) {
      for (const int64_t batch : {1, 8}) {
        cases->add(dense_shape, model, batch, length, length, change);
        cases->add(packed_shape, model, batch, length, length, change);
        cases->add(packed_paged_shape, model, batch, length, length, change);
        cases->add(cached_shape, model, batch, length, 2 * length, change);
      }
    }
    cases->add(packed_paged_shape, model, 64, 2048, 16384, change);
  }
}

void add_decode(const Model& model, Cases* cases) {
  for (const Change change : kMasks) {
    for (const int64_t rows : {1, 4, 16}) {
      for (const int64_t keys : {256, 4096, 65536}) {
        for (const int64_t batch : {1, 8, 64, 256}) {
          cases->add(paged_shape, model, batch, rows, keys, change);
          cases->add(packed_paged_shape, model, batch, rows, keys, change);
          if (change != causal_window && rows == 1) cases->add(cached_shape, model, batch, rows, keys, change);
        }
      }
    }
  }
}

// Scores that are changed before the softmax, as some models do in every phase.
void add_score_changes(const Model& model, Cases* cases) {
  constexpr Change kChanges[] = {
      [](fa_attention_desc* desc) { causal(desc), desc->softcap = 50; },
      [](fa_attention_desc* desc) { causal_window(desc), desc->softcap = 50; },
      [](fa_attention_desc* desc) { causal(desc), desc->alibi = dense_tensor(FA_DTYPE_F32, {desc->q.shape[desc->q.rank - 2]}); },
      [](fa_attention_desc* desc) { causal(desc), desc->sink = dense_tensor(FA_DTYPE_F32, {desc->q.shape[desc->q.rank - 2]}); },
      [](fa_attention_desc* desc) {
        causal_window(desc), desc->sink = dense_tensor(FA_DTYPE_F32, {desc->q.shape[desc->q.rank - 2]});
      },
  };
  for (const Change change : kChanges) {
    cases->add(dense_shape, model, 2, 2048, 2048, change);
    cases->add(packed_paged_shape, model, 8, 2048, 8192, change);
    for (const int64_t batch : {1, 64}) cases->add(paged_shape, model, batch, 1, 4096, change);
  }
}

// The forward and its backward. Models are trained with narrow heads and few changes.
void add_training(const Model& model, Cases* cases) {
  constexpr Change kChanges[] = {full, causal, causal_window, [](fa_attention_desc* desc) { desc->dropout_p = 0.1f; },
                                 [](fa_attention_desc* desc) { causal(desc), desc->dropout_p = 0.1f; }};
  const bool is_usual = model.d == 64 || model.d == 128;
  for (const Change change : kChanges) {
    if (!is_usual && change != full && change != causal) continue;
    for (const int64_t length : {512, 2048, 8192}) {
      cases->add(dense_shape, model, 4, length, length, change);
      cases->add_backward();
      if (change != full && change != causal) continue;
      cases->add(packed_shape, model, 4, length, length, change);
      cases->add_backward();
    }
  }
}

}  // namespace

std::vector<fa_attention_desc> serving_cases() {
  constexpr int64_t kDims[][2] = {{64, 64}, {96, 96}, {128, 128}, {192, 128}, {192, 192}, {256, 256}};
  Cases cases;
  for (const fa_dtype dtype : {FA_DTYPE_BF16, FA_DTYPE_F16}) {
    for (const auto& [d, d_v] : kDims) {
      for (const int64_t h_k : {32, 8, 4}) {
        const Model model = {dtype, d, d_v, 32, h_k};
        add_prefill(model, &cases);
        if (d == d_v) add_decode(model, &cases);
      }
      if (d != 96 && d != 192) add_score_changes({dtype, d, d_v, 32, 8}, &cases);
      for (const int64_t h_k : {16, 4}) add_training({dtype, d, d_v, 16, h_k}, &cases);
    }
  }
  return cases.take();
}

}  // namespace flash_attn::tool
