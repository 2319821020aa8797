// See random_case.h. Each feature is on in a minority of the cases, so that failures stay readable; all of them meet sooner or
// later.
#include "tests/support/random_case.h"

#include <algorithm>

namespace flash_attn::test {
namespace {

// Mostly small, sometimes next to a block edge.
int64_t random_length(Random* random, int64_t most) {
  if (random->chance(0.1)) return random->between(0, 2);
  if (random->chance(0.3)) {
    const int64_t edge = int64_t{16} << random->below(5);
    return std::clamp<int64_t>(edge + random->between(-1, 1), 0, most);
  }
  return random->between(1, random->chance(0.7) ? std::min<int64_t>(40, most) : most);
}

int64_t random_dim(Random* random) {
  constexpr int64_t kCommon[] = {32, 40, 64, 80, 96, 128};
  if (random->chance(0.5)) return kCommon[random->below(6)];
  return random->chance(0.9) ? random->between(1, 130) : random->between(131, 512);
}

void random_shape(Random* random, CaseSpec* spec) {
  spec->batch = random->chance(0.3) ? 1 : random->between(1, 5);
  const bool is_decode = random->chance(0.3);
  spec->s_q = is_decode ? random->between(1, 4) : std::max<int64_t>(1, random_length(random, 150));
  spec->s_k = std::max<int64_t>(1, random_length(random, is_decode ? 700 : 300));
  spec->h_k = random->between(1, 3);
  spec->h_q = spec->h_k * (random->chance(0.5) ? 1 : random->between(2, 9));
  spec->d = random_dim(random);
  spec->d_v = random->chance(0.7) ? 0 : random_dim(random);
  if (random->chance(0.1)) spec->o_dtype = static_cast<fa_dtype>(random->between(FA_DTYPE_F32, FA_DTYPE_BF16));
}

void random_layout(Random* random, CaseSpec* spec) {
  spec->query_layout = random->chance(0.4) ? QueryLayout::packed : QueryLayout::dense;
  spec->key_layout = static_cast<KeyLayout>(random->below(4));
  spec->strides = random->chance(0.5) ? Strides::rows : static_cast<Strides>(random->below(4));
  if (spec->key_layout == KeyLayout::dense && random->chance(0.1)) spec->strides = Strides::broadcast;
  constexpr int64_t kPages[] = {1, 2, 3, 7, 16, 64, 256};
  spec->page_size = kPages[random->below(7)];
  if (spec->query_layout == QueryLayout::packed || random->chance(0.3)) {
    for (int64_t r = 0; r < spec->batch; ++r) spec->lengths_q.push_back(std::min(spec->s_q, random_length(random, spec->s_q)));
  }
  if (spec->key_layout == KeyLayout::packed || random->chance(0.5)) {
    for (int64_t r = 0; r < spec->batch; ++r) spec->lengths_k.push_back(std::min(spec->s_k, random_length(random, spec->s_k)));
  }
  spec->seqused_q = random->chance(0.2);
  spec->seqused_k = random->chance(0.2);
  if (random->chance(0.2)) spec->leftpad = random->between(1, 20);
  spec->cache_batch_idx = spec->key_layout == KeyLayout::dense && spec->strides != Strides::broadcast && random->chance(0.2);
}

void random_mask(Random* random, CaseSpec* spec) {
  spec->mask_kind = random->chance(0.7) ? static_cast<fa_mask_kind>(random->below(2)) : static_cast<fa_mask_kind>(random->below(4));
  if (spec->mask_kind >= FA_MASK_TREE) spec->tree_size = random->between(0, std::min<int64_t>(spec->s_k, 140));
  if (random->chance(0.4)) spec->diagonal = static_cast<fa_diagonal>(random->below(4));
  if (spec->diagonal >= FA_DIAGONAL_OFFSET) spec->diagonal_offset = random->between(-30, spec->s_k);
  if (random->chance(0.25)) spec->window_left = random->between(0, spec->s_k);
  if (random->chance(0.25)) spec->window_right = random->between(0, spec->s_k);
  if (random->chance(0.15)) spec->first_keys = random->between(1, 20);
  if (random->chance(0.15)) spec->chunk = random->between(1, 100);
}

void random_scores(Random* random, CaseSpec* spec) {
  if (random->chance(0.2)) spec->scale = 0.3f * random->normal();
  if (random->chance(0.2)) spec->softcap = static_cast<float>(random->between(1, 40));
  if (random->chance(0.2)) spec->alibi = static_cast<int>(random->between(1, 2));
  // A key axis that broadcasts is for dense tensors; the builder leaves it out of packed ones.
  if (random->chance(0.2)) {
    spec->bias = {.present = true, .broadcast = static_cast<uint32_t>(random->below(16)), .as_f32 = random->chance(0.5)};
    if (random->chance(0.3)) spec->bias.minus_infinity = 0.2f;
  }
  if (random->chance(0.2)) spec->mask = {.present = true, .broadcast = static_cast<uint32_t>(random->below(16))};
  spec->sink = random->chance(0.2);
  if (random->chance(0.15)) {
    spec->dropout_p = static_cast<float>(random->uniform() * 0.9);
    spec->dropout_pointers = random->chance(0.5);
  }
  if (random->chance(0.1)) spec->magnitude = 10.0f;
}

}  // namespace

CaseSpec random_case(Random* random) {
  CaseSpec spec;
  spec.name = "random";
  random_shape(random, &spec);
  random_layout(random, &spec);
  random_mask(random, &spec);
  random_scores(random, &spec);
  spec.lse = random->chance(0.8);
  if (random->chance(0.1)) spec.num_splits = static_cast<int32_t>(random->between(1, 9));
  if (spec.num_splits == 0 && random->chance(0.1)) spec.split_size = random->between(1, 200);
  if (random->chance(0.1)) spec.flags |= FA_FLAG_BATCH_INVARIANT;
  if (random->chance(0.3)) spec.num_threads = static_cast<int32_t>(random->between(1, 4));
  return spec;
}

CaseSpec random_backward_case(Random* random) {
  // The oracle's time limits the size.
  constexpr double kMostFlops = 1e8;
  CaseSpec spec;
  do {
    spec = backward_of(random_case(random));
  } while (flops(spec) > kMostFlops);
  spec.name = "random_backward";
  GradientSpec& gradients = spec.gradients;
  gradients.dlse = random->chance(0.5);
  gradients.dbias = gradients.dbias && random->chance(0.8);
  gradients.dsink = gradients.dsink && random->chance(0.8);
  gradients.dslopes = gradients.dslopes && random->chance(0.8);
  gradients.as_f32 = random->chance(0.2);
  gradients.strides = random->chance(0.5) ? Strides::rows : static_cast<Strides>(random->below(4));
  if (random->chance(0.3)) spec.flags |= FA_FLAG_DETERMINISTIC;
  for (const uint32_t flag : {FA_FLAG_ACCUMULATE_DQ, FA_FLAG_ACCUMULATE_DK, FA_FLAG_ACCUMULATE_DV}) {
    if (random->chance(0.1)) spec.flags |= flag;
  }
  return spec;
}

}  // namespace flash_attn::test
