// Sizes beyond 32 bits: tensors whose strides span more than 2^32 elements in sparsely touched memory, and 70,000 requests, heads
// or rows. Needs address space, not memory.
#include "tests/support/backward_check.h"
#include "tests/support/check.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>

namespace flash_attn::test {
namespace {

constexpr int64_t kRowStride = (int64_t{1} << 29) + 24;

// Address space without memory behind it until it is touched.
class SparseMapping {
 public:
  explicit SparseMapping(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    base_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  ~SparseMapping() {
    if (is_valid()) munmap(base_, bytes_);
  }
  SparseMapping(const SparseMapping&) = delete;
  SparseMapping& operator=(const SparseMapping&) = delete;
  bool is_valid() const { return base_ != MAP_FAILED; }
  void* data() const { return base_; }

 private:
  size_t bytes_;
  void* base_;
};

// Spread the rows of a dense [b, rows, heads, dim] tensor to kRowStride elements each.
std::unique_ptr<SparseMapping> spread(fa_tensor_desc* desc, const void* data) {
  const int64_t size = element_bytes(desc->dtype), row_bytes = desc->shape[2] * desc->shape[3] * size;
  const fa_tensor_desc old = *desc;
  desc->stride[1] = kRowStride;
  desc->stride[0] = kRowStride * desc->shape[1];
  auto mapping = std::make_unique<SparseMapping>(desc->stride[0] * desc->shape[0] * size);
  if (!mapping->is_valid()) return nullptr;
  for (int64_t n = 0; data != nullptr && n < desc->shape[0]; ++n) {
    for (int64_t row = 0; row < desc->shape[1]; ++row) {
      std::memcpy(static_cast<char*>(mapping->data()) + (n * desc->stride[0] + row * desc->stride[1]) * size,
                  static_cast<const char*>(data) + (n * old.stride[0] + row * old.stride[1]) * size,
                  static_cast<size_t>(row_bytes));
    }
  }
  return mapping;
}

// The other way: the rows back to where they lie without gaps.
void gather(const fa_tensor_desc& from, const void* source, const fa_tensor_desc& to, void* target) {
  const int64_t size = element_bytes(to.dtype), row_bytes = to.shape[2] * to.shape[3] * size;
  for (int64_t n = 0; n < to.shape[0]; ++n) {
    for (int64_t row = 0; row < to.shape[1]; ++row) {
      std::memcpy(static_cast<char*>(target) + (n * to.stride[0] + row * to.stride[1]) * size,
                  static_cast<const char*>(source) + (n * from.stride[0] + row * from.stride[1]) * size,
                  static_cast<size_t>(row_bytes));
    }
  }
}

void check_spread(const CaseSpec& spec, fa_dtype dtype) {
  TestProblem problem(spec, dtype, 41);
  const Reference reference = make_reference(problem);
  fa_attention_desc desc = problem.desc();
  fa_attention_args args = problem.args();
  const auto q = spread(&desc.q, args.q), k = spread(&desc.k, args.k), v = spread(&desc.v, args.v), o = spread(&desc.o, nullptr);
  ASSERT_TRUE(q && k && v && o) << "no address space";
  ASSERT_GT(desc.k.stride[0] * desc.k.shape[0], int64_t{1} << 32);
  args.q = q->data();
  args.k = k->data();
  args.v = v->data();
  args.o = o->data();
  problem.mutable_desc() = desc;
  problem.mutable_args() = args;
  for (const Choice& choice : all_choices()) {
    const PlanHandle plan(desc, choice);
    ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
    PlannedWorkspace workspace(plan.get());
    ASSERT_EQ(fa_run(plan.get(), &args, workspace.get(), nullptr, 0), FA_STATUS_OK) << fa_last_error();
    EXPECT_EQ(compare(problem, reference, problem.read_outputs(reference.rows)), "") << choice.text();
  }
}

TEST(Huge, MoreThan2To32Elements) {
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    check_spread({.name = "spread", .batch = 2, .s_q = 5, .s_k = 6, .h_q = 2, .h_k = 2, .d = 16, .mask_kind = FA_MASK_CAUSAL},
                 dtype);
    check_spread({.name = "spread_decode", .batch = 3, .s_q = 1, .s_k = 7, .h_q = 4, .h_k = 1, .d = 24}, dtype);
  }
}

TEST(Huge, GradientsOfMoreThan2To32Elements) {
  const CaseSpec spec = {
      .name = "spread", .batch = 2, .s_q = 5, .s_k = 6, .h_q = 4, .h_k = 2, .d = 16, .mask_kind = FA_MASK_CAUSAL};
  for (const fa_dtype dtype : dtype_list(kAllDTypes)) {
    BackwardProblem problem(backward_of(spec), dtype, 41);
    const BackwardReference reference = make_pooled_reference(problem, 41);
    fa_attention_desc desc = problem.desc();
    fa_attention_args args = problem.args();
    const auto q = spread(&desc.q, args.q), k = spread(&desc.k, args.k), v = spread(&desc.v, args.v), o = spread(&desc.o, args.o);
    const auto dout = spread(&desc.dout, args.dout), dq = spread(&desc.dq, nullptr), dk = spread(&desc.dk, nullptr);
    const auto dv = spread(&desc.dv, nullptr);
    ASSERT_TRUE(q && k && v && o && dout && dq && dk && dv) << "no address space";
    ASSERT_GT(desc.dk.stride[0] * desc.dk.shape[0], int64_t{1} << 32);
    args.q = q->data(), args.k = k->data(), args.v = v->data(), args.o = o->data();
    args.dout = dout->data(), args.dq = dq->data(), args.dk = dk->data(), args.dv = dv->data();
    for (const Choice& choice : isa_choices()) {
      const PlanHandle plan(desc, choice);
      ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
      PlannedWorkspace workspace(plan.get());
      ASSERT_EQ(fa_run(plan.get(), &args, workspace.get(), nullptr, 0), FA_STATUS_OK) << fa_last_error();
      gather(desc.dq, args.dq, problem.desc().dq, problem.args().dq);
      gather(desc.dk, args.dk, problem.desc().dk, problem.args().dk);
      gather(desc.dv, args.dv, problem.desc().dv, problem.args().dv);
      EXPECT_EQ(compare_gradients(problem, reference, problem.read_outputs()), "") << choice.text();
    }
  }
}

// Pages so far apart that a page number times the page stride passes 2^32.
TEST(Huge, PagesFarApart) {
  const CaseSpec spec = {.name = "far_pages",
                         .batch = 2,
                         .s_q = 2,
                         .s_k = 7,
                         .h_q = 2,
                         .h_k = 2,
                         .d = 16,
                         .lengths_k = {7, 5},
                         .key_layout = KeyLayout::paged,
                         .page_size = 1};
  TestProblem problem(spec, FA_DTYPE_BF16, 43);
  const Reference reference = make_reference(problem);
  fa_attention_desc& desc = problem.mutable_desc();
  std::unique_ptr<SparseMapping> mappings[2];
  int n = 0;
  for (fa_tensor_desc* tensor : {&desc.k, &desc.v}) {
    const void* data = n == 0 ? problem.args().k : problem.args().v;
    mappings[n] = spread(tensor, data);
    ASSERT_TRUE(mappings[n]) << "no address space";
    (n == 0 ? problem.mutable_args().k : problem.mutable_args().v) = mappings[n]->data();
    ++n;
  }
  for (const Choice& choice : all_choices()) {
    const RunResult result = run_problem(&problem, choice, reference.rows);
    ASSERT_TRUE(result.ok()) << result.text();
    EXPECT_EQ(compare(problem, reference, result.outputs), "") << choice.text();
  }
}

CheckOptions sampled() {
  CheckOptions options;
  options.sampled_rows = 3000;
  return options;
}

constexpr int64_t kMany = 70000;

TEST(Huge, ManyRequests) {
  const CaseSpec spec = {.name = "many_requests", .batch = kMany, .s_q = 1, .s_k = 3, .h_q = 1, .h_k = 1, .d = 4};
  EXPECT_EQ(check_case(spec, FA_DTYPE_F32, 1, sampled()), "");
}

TEST(Huge, ManyHeads) {
  CaseSpec spec = {.name = "many_heads", .batch = 1, .s_q = 1, .s_k = 3, .h_q = kMany, .h_k = kMany, .d = 4, .dropout_p = 0.5f};
  EXPECT_EQ(check_case(spec, FA_DTYPE_BF16, 1, sampled()), "");
  spec.h_k = 1;
  EXPECT_EQ(check_case(spec, FA_DTYPE_F32, 1, sampled()), "");
}

TEST(Huge, GradientsOfManyRequestsHeadsRowsOrKeys) {
  const auto check = [](CaseSpec spec) {
    spec.sink = true;
    spec.dropout_p = 0.3f;
    EXPECT_EQ(check_backward(backward_of(spec), FA_DTYPE_F32, 1, cpu_runners()), "");
  };
  check({.name = "many_requests", .batch = kMany, .s_q = 1, .s_k = 3, .h_q = 1, .h_k = 1, .d = 4});
  check({.name = "many_heads", .s_q = 1, .s_k = 3, .h_q = kMany, .h_k = kMany, .d = 4});
  check({.name = "many_heads_of_one_key_head", .s_q = 1, .s_k = 3, .h_q = kMany, .h_k = 1, .d = 4});
  check({.name = "many_rows", .s_q = kMany, .s_k = 3, .d = 4});
  check({.name = "many_keys", .s_q = 2, .s_k = kMany, .d = 4});
}

TEST(Huge, ManyRowsOrKeys) {
  CaseSpec spec = {.name = "many_rows", .batch = 1, .s_q = kMany, .s_k = 3, .h_q = 1, .h_k = 1, .d = 4, .dropout_p = 0.3f};
  EXPECT_EQ(check_case(spec, FA_DTYPE_F32, 1, sampled()), "");
  spec.name = "many_keys";
  spec.s_q = 2;
  spec.s_k = kMany;
  EXPECT_EQ(check_case(spec, FA_DTYPE_F32, 1, sampled()), "");
}

}  // namespace
}  // namespace flash_attn::test
