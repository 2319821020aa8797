// See backward_problem.h.
#include "tests/support/backward_problem.h"

#include "tests/oracle/values.h"
#include "tests/support/tensor_layout.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace flash_attn::test {
namespace {

using Edge = GuardedBuffer::Edge;

// A NaN in f32, f16 and bf16 alike.
constexpr uint16_t kSentinel = 0xFFA5;

void fill_sentinel(const GuardedBuffer& buffer) {
  auto* halves = buffer.as<uint16_t>();
  for (size_t n = 0; n < buffer.bytes() / 2; ++n) halves[n] = kSentinel;
}

CaseSpec with_strides(CaseSpec spec, Strides strides) {
  spec.strides = strides;
  return spec;
}

size_t bytes_of(fa_dtype dtype) { return static_cast<size_t>(element_bytes(dtype)); }

}  // namespace

std::vector<int64_t> element_offsets(const fa_tensor_desc& tensor) {
  std::vector<int64_t> offsets;
  if (tensor.dtype == FA_DTYPE_NONE) return offsets;
  offsets.push_back(0);
  for (int axis = 0; axis < tensor.rank; ++axis) {
    std::vector<int64_t> longer;
    longer.reserve(offsets.size() * static_cast<size_t>(tensor.shape[axis]));
    for (const int64_t offset : offsets) {
      for (int64_t index = 0; index < tensor.shape[axis]; ++index) longer.push_back(offset + index * tensor.stride[axis]);
    }
    offsets = std::move(longer);
  }
  return offsets;
}

BackwardProblem::BackwardProblem(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, Edge edge, ForwardBy forward_by)
    : forward_(spec, dtype, seed, edge), desc_(forward_.desc()), args_(forward_.args()) {
  desc_.direction = FA_BACKWARD;
  Random random(seed ^ 0xBAC4BAC4BAC4ull);
  make_forward_results(edge, forward_by);
  make_incoming(&random, edge);
  make_outputs(&random, edge);
  for (GuardedBuffer& buffer : inputs_) buffer.make_read_only();
  set_pointers();
}

GuardedBuffer& BackwardProblem::new_input(fa_dtype dtype, int64_t elements, Edge edge) {
  inputs_.emplace_back(static_cast<size_t>(elements) * bytes_of(dtype), bytes_of(dtype), edge);
  poison(inputs_.back().data(), dtype, elements);
  return inputs_.back();
}

// o and lse of live rows; the rest stays poisoned.
void BackwardProblem::make_forward_results(Edge edge, ForwardBy by) {
  const auto o_elements = static_cast<int64_t>(forward_.o_buffer().bytes() / bytes_of(desc_.o.dtype));
  args_.o = new_input(desc_.o.dtype, o_elements, edge).data();
  args_.lse = new_input(FA_DTYPE_F32, static_cast<int64_t>(forward_.lse_buffer().bytes() / 4), edge).as<float>();
  if (by == ForwardBy::oracle) {
    ask_oracle();
  } else {
    ask_library();
  }
}

void BackwardProblem::ask_oracle() {
  const oracle::View view(forward_.desc(), forward_.args());
  const oracle::Result result = oracle::forward(view, oracle::Model::exact, oracle::all_rows(view));
  for (size_t n = 0; n < result.rows.size(); ++n) {
    const oracle::RowId& row = result.rows[n];
    const int64_t at = view.o_offset(row.request, row.head, row.i);
    for (int64_t c = 0; c < view.d_v(); ++c) {
      const double value = result.o[n * static_cast<size_t>(view.d_v()) + static_cast<size_t>(c)];
      oracle::store_value(args_.o, desc_.o.dtype, at + c, static_cast<float>(value));
    }
    args_.lse[view.lse_offset(row.request, row.head, row.i)] = static_cast<float>(result.lse[n]);
  }
}

void BackwardProblem::ask_library() {
  fa_attention_desc desc = forward_.desc();
  desc.flags = 0;
  if (fa_attention(&desc, &args_, nullptr) == FA_STATUS_OK) return;
  std::fprintf(stderr, "the forward before a backward failed: %s\n", fa_last_error());
  std::exit(1);
}

void BackwardProblem::make_incoming(Random* random, Edge edge) {
  const oracle::View view(desc_, args_);
  const bool is_packed = desc_.q.rank == 3;
  const int64_t rows = desc_.q.shape[is_packed ? 0 : 1];
  const CaseSpec shaped = with_strides(spec(), spec().gradients.strides);
  const TensorLayout layout = query_tensor(shaped, rows, spec().value_dim(), desc_.o.dtype);
  desc_.dout = layout.desc;
  GuardedBuffer& dout = new_input(desc_.o.dtype, layout.elements, edge);
  args_.dout = dout.data();
  float* dlse = nullptr;
  if (spec().gradients.dlse) {
    desc_.dlse = desc_.lse;
    dlse = new_input(FA_DTYPE_F32, static_cast<int64_t>(forward_.lse_buffer().bytes() / 4), edge).as<float>();
    args_.dlse = dlse;
  }
  for (const oracle::RowId& row : oracle::all_rows(view)) {
    const int64_t at = view.query_offset(desc_.dout, row.request, row.head, row.i);
    for (int64_t c = 0; c < view.d_v(); ++c) oracle::store_value(dout.data(), desc_.o.dtype, at + c, random->normal());
    if (dlse != nullptr) dlse[view.stat_offset(desc_.dlse, row.request, row.head, row.i)] = random->normal();
  }
}

void BackwardProblem::make_outputs(Random* random, Edge edge) {
  const bool is_packed_q = desc_.q.rank == 3, is_packed_k = desc_.k.rank == 3;
  const fa_dtype dtype = spec().gradients.as_f32 ? FA_DTYPE_F32 : this->dtype();
  const CaseSpec shaped = with_strides(spec(), spec().gradients.strides);
  const TensorLayout dq = query_tensor(shaped, desc_.q.shape[is_packed_q ? 0 : 1], spec().d, dtype);
  const KeyExtents extents = {.rows = is_packed_k ? 0 : desc_.k.shape[1],
                              .total = is_packed_k ? desc_.k.shape[0] : 0,
                              .pages = 0,
                              .cache_rows = is_packed_k ? 0 : desc_.k.shape[0]};
  const TensorLayout dk = key_tensor(shaped, extents, dtype, false), dv = key_tensor(shaped, extents, dtype, true);
  const bool is_fused = shaped.strides == Strides::fused;
  make_output(GradientId::dq, dq.desc, dq.elements, random, edge);
  make_output(GradientId::dk, dk.desc, is_fused ? std::max(dk.elements, dv.elements + dv.first_element) : dk.elements, random,
              edge);
  if (is_fused) {
    Output& own = outputs_[static_cast<int>(GradientId::dv)];
    own.desc = dv.desc;
    own.data = outputs_[static_cast<int>(GradientId::dk)].data + static_cast<size_t>(dv.first_element) * bytes_of(dtype);
    fill(GradientId::dv, random);
  } else {
    make_output(GradientId::dv, dv.desc, dv.elements, random, edge);
  }
  const auto elements = [](const fa_tensor_desc& tensor) {
    const std::vector<int64_t> offsets = element_offsets(tensor);
    return offsets.empty() ? 0 : offsets.back() + 1;
  };
  if (spec().gradients.dbias) {
    fa_tensor_desc dbias = desc_.bias;
    dbias.dtype = FA_DTYPE_F32;
    make_output(GradientId::dbias, dbias, elements(dbias), random, edge);
  }
  if (spec().gradients.dsink) make_output(GradientId::dsink, desc_.sink, elements(desc_.sink), random, edge);
  if (spec().gradients.dslopes) make_output(GradientId::dslopes, desc_.alibi, elements(desc_.alibi), random, edge);
  for (const GuardedBuffer* buffer : outputs()) initial_.emplace_back(buffer->as<char>(), buffer->as<char>() + buffer->bytes());
}

void BackwardProblem::make_output(GradientId id, const fa_tensor_desc& desc, int64_t elements, Random* random, Edge edge) {
  Output& output = outputs_[static_cast<int>(id)];
  output.own = GuardedBuffer(static_cast<size_t>(elements) * bytes_of(desc.dtype), bytes_of(desc.dtype), edge);
  output.data = output.own.as<char>();
  output.desc = desc;
  fill_sentinel(output.own);
  fill(id, random);
}

// Something to add to where the case does.
void BackwardProblem::fill(GradientId id, Random* random) {
  Output& output = outputs_[static_cast<int>(id)];
  for (const int64_t offset : element_offsets(output.desc)) {
    if (accumulates(id)) oracle::store_value(output.data, output.desc.dtype, offset, random->normal());
    output.base.push_back(static_cast<float>(oracle::load_value(output.data, output.desc.dtype, offset)));
  }
}

void BackwardProblem::set_pointers() {
  desc_.dq = outputs_[0].desc;
  desc_.dk = outputs_[1].desc;
  desc_.dv = outputs_[2].desc;
  desc_.dbias = outputs_[3].desc;
  desc_.dsink = outputs_[4].desc;
  desc_.dslopes = outputs_[5].desc;
  args_.dq = outputs_[0].data;
  args_.dk = outputs_[1].data;
  args_.dv = outputs_[2].data;
  args_.dbias = reinterpret_cast<float*>(outputs_[3].data);
  args_.dsink = reinterpret_cast<float*>(outputs_[4].data);
  args_.dslopes = reinterpret_cast<float*>(outputs_[5].data);
}

std::vector<const GuardedBuffer*> BackwardProblem::inputs() const {
  std::vector<const GuardedBuffer*> buffers;
  for (const GuardedBuffer& buffer : forward_.inputs()) buffers.push_back(&buffer);
  for (const GuardedBuffer& buffer : inputs_) buffers.push_back(&buffer);
  return buffers;
}

std::vector<const GuardedBuffer*> BackwardProblem::outputs() const {
  std::vector<const GuardedBuffer*> buffers;
  for (const Output& output : outputs_) {
    if (output.own.data() != nullptr) buffers.push_back(&output.own);
  }
  return buffers;
}

const fa_tensor_desc& BackwardProblem::tensor(GradientId id) const { return outputs_[static_cast<int>(id)].desc; }

bool BackwardProblem::accumulates(GradientId id) const {
  constexpr uint32_t kFlags[kGradients] = {FA_FLAG_ACCUMULATE_DQ, FA_FLAG_ACCUMULATE_DK, FA_FLAG_ACCUMULATE_DV, 0, 0, 0};
  return (desc_.flags & kFlags[static_cast<int>(id)]) != 0;
}

void BackwardProblem::reset_outputs() {
  const std::vector<const GuardedBuffer*> buffers = outputs();
  for (size_t n = 0; n < buffers.size(); ++n) {
    if (!initial_[n].empty()) std::memcpy(buffers[n]->data(), initial_[n].data(), initial_[n].size());
  }
}

GradientValues BackwardProblem::read_outputs() const {
  GradientValues values;
  for (int id = 0; id < kGradients; ++id) {
    const Output& output = outputs_[id];
    for (const int64_t offset : element_offsets(output.desc)) {
      values.of[id].push_back(static_cast<float>(oracle::load_value(output.data, output.desc.dtype, offset)));
    }
  }
  return values;
}

std::string BackwardProblem::find_damage() {
  for (const Output& output : outputs_) {
    const size_t size = output.desc.dtype == FA_DTYPE_NONE ? 0 : bytes_of(output.desc.dtype);
    size_t n = 0;
    for (const int64_t offset : element_offsets(output.desc)) {
      oracle::store_value(output.data, output.desc.dtype, offset, output.base[n++]);
      if (!std::isnan(output.base[n - 1])) continue;
      for (size_t half = 0; half < size / 2; ++half) {
        std::memcpy(output.data + static_cast<size_t>(offset) * size + half * 2, &kSentinel, sizeof kSentinel);
      }
    }
  }
  const std::vector<const GuardedBuffer*> buffers = outputs();
  for (size_t n = 0; n < buffers.size(); ++n) {
    if (initial_[n].empty()) continue;
    if (std::memcmp(buffers[n]->data(), initial_[n].data(), initial_[n].size()) != 0) {
      reset_outputs();
      return "a gradient was written outside its elements, buffer " + std::to_string(n);
    }
    if (!buffers[n]->is_slack_intact()) return "memory beside a gradient was written, buffer " + std::to_string(n);
  }
  return "";
}

bool BackwardProblem::outputs_untouched() const {
  const std::vector<const GuardedBuffer*> buffers = outputs();
  for (size_t n = 0; n < buffers.size(); ++n) {
    if (!initial_[n].empty() && std::memcmp(buffers[n]->data(), initial_[n].data(), initial_[n].size()) != 0) return false;
  }
  return true;
}

}  // namespace flash_attn::test
