// See tune_problems.h.
#include "bench/tune_problems.h"

#include "tests/cases.h"
#include "tests/support/random.h"
#include "tools/flash-attn/numeric.h"
#include "tools/flash-attn/shapes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace flash_attn::bench {
namespace {

using tool::Shape;

constexpr size_t kProblemsOfClass = 3;
constexpr int kDraws = 300;  // for each dim, mask and layout
constexpr int64_t kMostElements = int64_t{32} << 20, kMostValues = int64_t{100} << 20;
constexpr double kMostFlops = 1.5e12;  // some milliseconds
constexpr int64_t kCompared = 1 << 16;

struct Kind {
  const char* name;
  fa_attention_desc (*make)(const Shape&);
  bool is_causal;
  int64_t window_left;
  float softcap;
};

constexpr Kind kKinds[] = {{"dense", tool::dense_shape, false, -1, 0},
                           {"dense causal", tool::dense_shape, true, -1, 0},
                           {"dense causal window", tool::dense_shape, true, 1024, 0},
                           {"packed", tool::packed_shape, false, -1, 0},
                           {"packed causal", tool::packed_shape, true, -1, 0},
                           {"packed and paged causal", tool::packed_paged_shape, true, -1, 0},
                           {"dense causal softcap", tool::dense_shape, true, -1, 30}};

// Evenly by the logarithm.
int64_t draw_length(test::Random* random, int64_t least, int64_t most) {
  const double low = std::log(static_cast<double>(least)), high = std::log(static_cast<double>(most));
  return std::clamp(static_cast<int64_t>(std::exp(low + (high - low) * random->uniform())), least, most);
}

double flops_of(const Shape& s, const Kind& kind) {
  test::CaseSpec spec;
  spec.batch = s.batch, spec.s_q = s.rows, spec.s_k = s.keys, spec.h_q = s.h_q, spec.h_k = s.h_k, spec.d = s.d, spec.d_v = s.d_v;
  spec.mask_kind = kind.is_causal ? FA_MASK_CAUSAL : FA_MASK_FULL;
  spec.window_left = kind.window_left;
  return test::flops(spec);
}

Shape draw_shape(test::Random* random, int64_t d) {
  Shape s;
  s.d = s.d_v = d;
  s.keys = draw_length(random, 128, 24000);
  s.rows = random->chance(0.25) ? draw_length(random, 32, 160) : s.keys;
  s.h_q = random->between(2, 32);
  s.h_k = s.h_q;
  s.batch = draw_length(random, 1, 64);
  return s;
}

bool is_of_size(const Shape& s) {
  const int64_t elements = s.batch * std::max(s.rows, s.keys + tool::kPageSize) * s.h_q * s.d;
  return elements <= kMostElements &&
         4.0 * static_cast<double>(s.batch * s.h_q * s.rows * s.d) * static_cast<double>(s.keys) <= kMostFlops;
}

std::string class_of(const fa_attention_desc& desc) { return tool::device_field(tool::explain_text(desc), "tuning class"); }

std::string text_of(const Shape& s, const Kind& kind) {
  return std::string(kind.name) + " b " + std::to_string(s.batch) + " rows " + std::to_string(s.rows) + " keys " +
         std::to_string(s.keys) + " heads " + std::to_string(s.h_q);
}

int64_t elements_of(const fa_tensor_desc& tensor) {
  int64_t elements = 1;
  for (int n = 0; n < tensor.rank; ++n) elements *= tensor.shape[n];
  return elements;
}

}  // namespace

std::map<std::string, std::vector<TuneProblem>> draw_problems(const std::vector<int64_t>& dims, uint64_t seed) {
  std::map<std::string, std::vector<TuneProblem>> classes;
  test::Random random(seed);
  for (const int64_t d : dims) {
    for (const Kind& kind : kKinds) {
      for (int draw = 0; draw < kDraws; ++draw) {
        const Shape shape = draw_shape(&random, d);
        if (!is_of_size(shape)) continue;
        TuneProblem problem = {kind.make(shape), flops_of(shape, kind), text_of(shape, kind)};
        problem.desc.mask_kind = kind.is_causal ? FA_MASK_CAUSAL : FA_MASK_FULL;
        problem.desc.window_left = kind.window_left;
        problem.desc.softcap = kind.softcap;
        std::vector<TuneProblem>& all = classes[class_of(problem.desc)];
        if (all.size() < kProblemsOfClass) all.push_back(problem);
      }
    }
  }
  return classes;
}

TuneMemory::TuneMemory(tool::Gpu* gpu) : gpu_(gpu) {
  test::Random random(1);
  std::vector<uint16_t> values(kMostValues);
  constexpr size_t kDrawn = 1 << 20;
  for (size_t n = 0; n < kDrawn; ++n) values[n] = tool::float_to_bf16(static_cast<float>(random.normal()));
  for (size_t done = kDrawn; done < values.size(); done += kDrawn) std::memcpy(&values[done], values.data(), kDrawn * 2);
  values_ = gpu_->copy_in(values.data(), values.size() * 2);
  o_ = gpu_->allocate(kMostElements * 2);
  lse_ = gpu_->allocate(kMostElements);
}

fa_attention_args TuneMemory::args_of(const fa_attention_desc& desc) const {
  fa_attention_args args = tool::new_args();
  auto* const values = static_cast<uint16_t*>(values_);
  args.q = values;
  args.k = values + kMostElements + 4096;
  args.v = values + 2 * kMostElements + 8192;
  args.o = o_;
  args.lse = static_cast<float*>(lse_);
  const auto table = [&](const std::vector<int32_t>& entries) {
    return static_cast<const int32_t*>(gpu_->copy_in(entries.data(), entries.size() * 4));
  };
  const auto b = static_cast<size_t>(desc.batch > 0 ? desc.batch : desc.q.shape[0]);
  std::vector<int32_t> offsets_q(b + 1), offsets_k(b + 1), used(b, static_cast<int32_t>(desc.max_s_k));
  for (size_t r = 0; r <= b; ++r) {
    offsets_q[r] = static_cast<int32_t>(static_cast<int64_t>(r) * desc.max_s_q);
    offsets_k[r] = static_cast<int32_t>(static_cast<int64_t>(r) * desc.max_s_k);
  }
  if (desc.inputs & FA_INPUT_CU_SEQLENS_Q) args.cu_seqlens_q = table(offsets_q);
  if (desc.inputs & FA_INPUT_CU_SEQLENS_K) args.cu_seqlens_k = table(offsets_k);
  if (desc.inputs & FA_INPUT_SEQUSED_K) args.seqused_k = table(used);
  if (desc.kv_layout == FA_KV_PAGED) {
    std::vector<int32_t> pages(static_cast<size_t>(elements_of(desc.block_table)));
    for (size_t n = 0; n < pages.size(); ++n)
      pages[n] = static_cast<int32_t>((n * 7919) % pages.size());  // spread, each once if 7919 is no divisor
    args.block_table = table(pages);
  }
  return args;
}

std::vector<float> TuneMemory::read_o(const fa_attention_desc& desc) const {
  std::vector<uint16_t> bits(static_cast<size_t>(std::min(elements_of(desc.o), kCompared)));
  gpu_->copy_out(bits.data(), o_, bits.size() * 2);
  std::vector<float> values;
  for (const uint16_t value : bits) values.push_back(tool::bf16_to_float(value));
  return values;
}

}  // namespace flash_attn::bench
