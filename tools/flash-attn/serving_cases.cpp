// See serving_cases.h. Head dims and heads are those of current models; each phase of an engine is one function.
#include "serving_cases.h"

#include "engine.h"

namespace flash_attn::tool {
namespace {

constexpr int64_t kPageSize = 16;

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

  // Prefill and training: rows and keys of equal length, dense.
  void dense(const Model& model, int64_t batch, int64_t rows, int64_t keys, Change change) {
    fa_attention_desc desc = new_desc();
    desc.device_type = FA_DEVICE_CUDA;
    desc.q = dense_tensor(model.dtype, {batch, rows, model.h_q, model.d});
    desc.k = dense_tensor(model.dtype, {batch, keys, model.h_k, model.d});
    desc.v = dense_tensor(model.dtype, {batch, keys, model.h_k, model.d_v});
    desc.o = dense_tensor(model.dtype, {batch, rows, model.h_q, model.d_v});
    desc.lse = dense_tensor(FA_DTYPE_F32, {batch, model.h_q, rows});
    add(desc, change);
  }

  // Dense rows against a cache of which each request uses a part.
  void cached(const Model& model, int64_t batch, int64_t rows, int64_t keys, Change change) {
    dense(model, batch, rows, keys, change);
    cases_.back().inputs |= FA_INPUT_SEQUSED_K;
  }

  // The same, the cache in pages.
  void paged(const Model& model, int64_t batch, int64_t rows, int64_t keys, Change change) {
    cached(model, batch, rows, keys, change);
    page(model, batch, keys, &cases_.back());
  }

  // Requests of different lengths, one after the other.
  void packed(const Model& model, int64_t batch, int64_t rows, int64_t keys, Change change) {
    fa_attention_desc desc = pack_rows(model, batch, rows);
    desc.k = dense_tensor(model.dtype, {batch * keys, model.h_k, model.d});
    desc.v = dense_tensor(model.dtype, {batch * keys, model.h_k, model.d_v});
    desc.inputs |= FA_INPUT_CU_SEQLENS_K;
    desc.max_s_k = keys;
    add(desc, change);
  }

  // Packed rows, new and decoding ones mixed, against a paged cache.
  void packed_paged(const Model& model, int64_t batch, int64_t rows, int64_t keys, Change change) {
    fa_attention_desc desc = pack_rows(model, batch, rows);
    desc.inputs |= FA_INPUT_SEQUSED_K;
    page(model, batch, keys, &desc);
    add(desc, change);
  }

 private:
  static fa_attention_desc pack_rows(const Model& model, int64_t batch, int64_t rows) {
    fa_attention_desc desc = new_desc();
    desc.device_type = FA_DEVICE_CUDA;
    desc.batch = batch;
    desc.inputs = FA_INPUT_CU_SEQLENS_Q;
    desc.max_s_q = rows;
    desc.q = dense_tensor(model.dtype, {batch * rows, model.h_q, model.d});
    desc.o = dense_tensor(model.dtype, {batch * rows, model.h_q, model.d_v});
    desc.lse = dense_tensor(FA_DTYPE_F32, {model.h_q, batch * rows});
    return desc;
  }

  static void page(const Model& model, int64_t batch, int64_t keys, fa_attention_desc* desc) {
    const int64_t pages = (keys + kPageSize - 1) / kPageSize;
    desc->kv_layout = FA_KV_PAGED;
    desc->k = dense_tensor(model.dtype, {batch * pages, kPageSize, model.h_k, model.d});
    desc->v = dense_tensor(model.dtype, {batch * pages, kPageSize, model.h_k, model.d_v});
    desc->block_table = dense_tensor(FA_DTYPE_I32, {batch, pages});
    desc->max_s_k = keys;
  }

  void add(fa_attention_desc desc, Change change) {
    change(&desc);
    cases_.push_back(desc);
  }

  std::vector<fa_attention_desc> cases_;
};

constexpr Change kMasks[] = {full, causal, causal_window};

void add_prefill(const Model& model, Cases* cases) {
  for (const Change change : kMasks) {
    for (const int64_t length : {64, 128, 512, 2048, 8192, 32768}) {
      for (const int64_t batch : {1, 8}) {
        cases->dense(model, batch, length, length, change);
        cases->packed(model, batch, length, length, change);
        cases->packed_paged(model, batch, length, length, change);
        cases->cached(model, batch, length, 2 * length, change);
      }
    }
    cases->packed_paged(model, 64, 2048, 16384, change);
  }
}

void add_decode(const Model& model, Cases* cases) {
  for (const Change change : kMasks) {
    for (const int64_t rows : {1, 4, 16}) {
      for (const int64_t keys : {256, 4096, 65536}) {
        for (const int64_t batch : {1, 8, 64, 256}) {
          cases->paged(model, batch, rows, keys, change);
          cases->cached(model, batch, rows, keys, change);
          cases->packed_paged(model, batch, rows, keys, change);
          cases->dense(model, batch, rows, keys, change);
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
    cases->dense(model, 2, 2048, 2048, change);
    cases->packed_paged(model, 8, 2048, 8192, change);
    for (const int64_t batch : {1, 64}) cases->paged(model, batch, 1, 4096, change);
  }
}

void add_dropout(const Model& model, Cases* cases) {
  cases->dense(model, 4, 2048, 2048, [](fa_attention_desc* desc) { desc->dropout_p = 0.1f; });
  cases->dense(model, 4, 2048, 2048, [](fa_attention_desc* desc) { causal(desc), desc->dropout_p = 0.1f; });
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
        add_decode(model, &cases);
      }
      const Model grouped = {dtype, d, d_v, 32, 8};
      add_score_changes(grouped, &cases);
      if (d <= 128) add_dropout({dtype, d, d_v, 16, 16}, &cases);
    }
  }
  return cases.take();
}

}  // namespace flash_attn::tool
