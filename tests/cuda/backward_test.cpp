// Every backward row of the case table on the GPU, on every kernel that serves it, against the oracle, and with determinism asked
// for to the last bit; dead memory is poisoned and must stay as it is. FLASH_ATTN_TEST_SEED and FLASH_ATTN_TEST_ROUNDS steer the
// random rows.
#include "cuda/device.h"
#include "tests/cuda/device_backward.h"
#include "tests/support/check.h"
#include "tests/support/random_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace flash_attn::test {
namespace {

std::vector<std::string> gpu_kernels() {
  if (forced_kernel() != nullptr) return {forced_kernel()};
  std::vector<std::string> names;
  for (int32_t n = 0; fa_kernel_name(FA_DEVICE_CUDA, n) != nullptr; ++n) names.emplace_back(fa_kernel_name(FA_DEVICE_CUDA, n));
  return names;
}

// Dims that no GPU kernel serves.
bool is_served(const CaseSpec& spec) { return spec.d <= 256 && spec.value_dim() <= 256; }

// Empty if every GPU kernel either agrees with the oracle or refuses; at least one must serve. With determinism asked for, two runs
// must agree to the last bit. `hopper`: the name under which the Hopper kernel is asked for.
std::string check_on_gpu(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, Placement placement,
                         const char* hopper = "sm90_bwd") {
  BackwardProblem problem(spec, dtype, seed);
  const BackwardReference reference = make_pooled_reference(problem, seed);
  const DeviceStream stream;
  std::string faults;
  bool served = false;
  for (const std::string& name : gpu_kernels()) {
    const std::string kernel = name == "sm90_bwd" ? hopper : name;
    DeviceBackward device(problem, placement, kernel);
    const BackwardRun first = run_backward_on_device(&problem, &device, stream);
    if (first.status == FA_STATUS_UNSUPPORTED && !first.message.empty()) continue;
    served = true;
    std::string fault = first.ok() ? compare_gradients(problem, reference, first.gradients) : first.text();
    if (fault.empty() && (spec.flags & FA_FLAG_DETERMINISTIC)) {
      const BackwardRun second = run_backward_on_device(&problem, &device, stream);
      fault = second.ok() ? compare_bitwise(first.gradients, second.gradients) : second.text();
    }
    if (!fault.empty()) faults += kernel + ": " + fault + "\n  in " + problem.text() + "\n";
  }
  return served ? faults : faults + "no kernel serves " + problem.text() + "\n";
}

CaseSpec deterministic(CaseSpec spec) {
  spec.flags |= FA_FLAG_DETERMINISTIC;
  return spec;
}

class OnGpu : public ::testing::TestWithParam<CaseSpec> {};

TEST_P(OnGpu, AgreesWithOracle) {
  for (const fa_dtype dtype : dtype_list(GetParam().dtypes)) EXPECT_EQ(check_on_gpu(GetParam(), dtype, 1, Placement::aligned), "");
}

TEST_P(OnGpu, AgreesWithOracleUnaligned) { EXPECT_EQ(check_on_gpu(GetParam(), FA_DTYPE_F16, 2, Placement::unaligned), ""); }

TEST_P(OnGpu, AgreesWithOracleDeterministic) {
  for (const fa_dtype dtype : dtype_list(GetParam().dtypes))
    EXPECT_EQ(check_on_gpu(deterministic(GetParam()), dtype, 3, Placement::aligned), "");
}

std::vector<CaseSpec> gpu_rows() {
  std::vector<CaseSpec> rows;
  for (const CaseSpec& spec : backward_cases()) {
    if ((spec.labels & kTest) && is_served(spec)) rows.push_back(spec);
  }
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Table, OnGpu, ::testing::ValuesIn(gpu_rows()),
                         [](const ::testing::TestParamInfo<CaseSpec>& row) { return row.param.name; });

// Several tiles of queries and of keys, so that every buffer of a pipeline is used again, and no feature that only some kernels
// have.
class SeveralTiles : public ::testing::TestWithParam<CaseSpec> {};

TEST_P(SeveralTiles, AgreeWithOracle) { EXPECT_EQ(check_on_gpu(GetParam(), FA_DTYPE_BF16, 1, Placement::aligned), ""); }

TEST_P(SeveralTiles, AgreeWithOracleDeterministic) {
  EXPECT_EQ(check_on_gpu(deterministic(GetParam()), FA_DTYPE_F16, 2, Placement::aligned), "");
}

std::vector<CaseSpec> tiled_rows() {
  std::vector<CaseSpec> rows;
  const auto add = [&](const char* name, int64_t d, int64_t s_q, int64_t s_k, auto&& change) {
    CaseSpec spec = {.name = name, .batch = 2, .s_q = s_q, .s_k = s_k, .h_q = 2, .h_k = 1, .d = d, .mask_kind = FA_MASK_CAUSAL};
    spec = backward_of(spec);
    change(spec);
    rows.push_back(spec);
  };
  const auto as_is = [](CaseSpec&) {};
  const auto full = [](CaseSpec& s) { s.mask_kind = FA_MASK_FULL, s.gradients.dlse = true; };
  const auto packed = [](CaseSpec& s) {
    s.batch = 4, s.query_layout = QueryLayout::packed, s.key_layout = KeyLayout::packed;
    s.lengths_q = {300, 3, 0, 250}, s.lengths_k = {500, 70, 5, 250}, s.seqused_k = true;
  };
  for (const int64_t d : {64, 128}) {
    const bool is_wide = d == 128;
    add(is_wide ? "causal_d128" : "causal_d64", d, 400, 400, as_is);
    add(is_wide ? "full_d128" : "full_d64", d, 330, 300, full);
    add(is_wide ? "more_rows_d128" : "more_rows_d64", d, 500, 200, as_is);
    add(is_wide ? "window_d128" : "window_d64", d, 300, 700, [](CaseSpec& s) { s.window_left = 150, s.window_right = 20; });
    add(is_wide ? "packed_d128" : "packed_d64", d, 300, 500, packed);
    add(is_wide ? "softcap_d128" : "softcap_d64", d, 200, 300, [](CaseSpec& s) { s.softcap = 5, s.alibi = 1; });
  }
  // Heads whose dk and dv are different warp groups' affair, and dq that of both: an odd number of slabs, one, unequal dims.
  add("causal_d256", 256, 200, 230, as_is);
  add("full_d256_v40", 256, 200, 200, [&](CaseSpec& s) { full(s), s.d_v = 40; });
  add("window_d192_v128", 192, 200, 300, [](CaseSpec& s) { s.d_v = 128, s.window_left = 100, s.window_right = 20; });
  add("packed_d144", 144, 300, 500, packed);
  add("softcap_d208", 208, 150, 200, [](CaseSpec& s) { s.softcap = 5, s.alibi = 1; });
  add("groups_d40_v256", 40, 140, 200, [](CaseSpec& s) { s.h_q = 6, s.h_k = 2, s.d_v = 256; });
  // One, one, no and three steps of a block.
  add("short_d160", 160, 130, 300, [](CaseSpec& s) {
    s.batch = 4, s.h_k = 2, s.lengths_q = {64, 1, 0, 130}, s.lengths_k = {300, 64, 100, 70};
  });
  const auto everything = [&](CaseSpec& s) {
    packed(s), s.lengths_q = {150, 3, 0, 130}, s.lengths_k = {200, 70, 5, 190}, s.h_q = 4, s.h_k = 2;
    s.softcap = 5, s.alibi = 1, s.window_left = 120, s.dropout_p = 0.3f;
  };
  add("everything_d256", 256, 150, 200, everything);
  add("everything_d128", 128, 150, 200, everything);
  add("everything_d64", 64, 150, 200, everything);
  add("dropout_d128", 128, 200, 300, [](CaseSpec& s) { s.dropout_p = 0.7f, s.h_q = 4, s.h_k = 2; });
  add("one_row", 128, 1, 700, [](CaseSpec& s) { s.lengths_k = {700, 300}; });
  add("full_d96_v40", 96, 200, 300, [&](CaseSpec& s) { full(s), s.d_v = 40; });
  add("window_d48_v56", 48, 300, 300, [](CaseSpec& s) { s.d_v = 56, s.window_left = 30; });
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Tiles, SeveralTiles, ::testing::ValuesIn(tiled_rows()),
                         [](const ::testing::TestParamInfo<CaseSpec>& row) { return row.param.name; });

// Blocks of smaller devices: 99 KB of shared memory as on sm_86 and sm_89, 163 KB as on sm_80.
class SmallDevice : public ::testing::TestWithParam<int> {};

TEST_P(SmallDevice, AgreesWithOracle) {
  cuda::limit_shared_memory(GetParam() * 1024);
  for (const int64_t d : {40, 64, 96, 128, 192, 256}) {
    CaseSpec spec = {.name = "small", .batch = 2, .s_q = 150, .s_k = 233, .h_q = 4, .h_k = 2, .d = d, .mask_kind = FA_MASK_CAUSAL};
    spec = backward_of(spec);
    EXPECT_EQ(check_on_gpu(spec, FA_DTYPE_BF16, 1, Placement::aligned), "");
    spec.window_left = 70;
    EXPECT_EQ(check_on_gpu(deterministic(spec), FA_DTYPE_F16, 2, Placement::aligned), "");
    EXPECT_EQ(check_on_gpu(spec, FA_DTYPE_F32, 3, Placement::aligned), "");
  }
  cuda::limit_shared_memory(0);
}

INSTANTIATE_TEST_SUITE_P(Kilobytes, SmallDevice, ::testing::Values(99, 163),
                         [](const ::testing::TestParamInfo<int>& kb) { return "kb" + std::to_string(kb.param); });

TEST(Random, AgreesWithOracle) {
  const uint64_t seed = environment_number("FLASH_ATTN_TEST_SEED", 1), rounds = environment_number("FLASH_ATTN_TEST_ROUNDS", 12);
  for (uint64_t round = 0; round < rounds; ++round) {
    Random random(seed * 1000003 + round);
    CaseSpec spec = backward_of(random_case(&random));
    if (!is_served(spec)) continue;
    const std::vector<fa_dtype> dtypes = dtype_list(spec.dtypes);
    const fa_dtype dtype = dtypes[round % dtypes.size()];
    if (round % 3 == 0) spec = deterministic(spec);
    EXPECT_EQ(check_on_gpu(spec, dtype, seed + round, round % 2 == 0 ? Placement::aligned : Placement::unaligned), "");
  }
}

// ---- Determinism ----

CaseSpec everything(int64_t d) {
  CaseSpec spec = {
      .name = "everything", .batch = 2, .s_q = 300, .s_k = 420, .h_q = 6, .h_k = 2, .d = d, .mask_kind = FA_MASK_CAUSAL};
  spec.alibi = 1;
  spec.sink = true;
  spec.bias = {.present = true, .broadcast = kBatch};
  spec.dropout_p = 0.2f;
  spec = backward_of(spec);
  spec.gradients.dlse = true;
  return deterministic(spec);
}

// Something for the multiprocessors to do on another stream: forward runs of a problem with memory of its own.
class BusyStream {
 public:
  BusyStream()
      : problem_(busy_spec(), FA_DTYPE_BF16, 7), device_(problem_, Placement::aligned, ""), plan_(description(&device_), {}) {
    EXPECT_EQ(plan_.status(), FA_STATUS_OK) << fa_last_error();
    EXPECT_EQ(fa_prepare(plan_.get(), nullptr), FA_STATUS_OK) << fa_last_error();
    fa_workspace_init(&workspace_);
    fa_plan_workspace(plan_.get(), &workspace_.scratch_bytes, &workspace_.state_bytes);
    workspace_.scratch = device_.scratch(workspace_.scratch_bytes);
    device_.upload();
  }
  void run(int times) {
    for (int n = 0; n < times; ++n)
      EXPECT_EQ(fa_run(plan_.get(), &device_.args(), &workspace_, stream_.get(), 0), FA_STATUS_OK) << fa_last_error();
  }
  void synchronize() const { stream_.synchronize(); }

 private:
  static CaseSpec busy_spec() {
    return backward_of({.name = "busy", .batch = 2, .s_q = 250, .s_k = 250, .h_q = 4, .h_k = 4, .d = 64});
  }
  static const fa_attention_desc& description(DeviceBackward* device) { return device->desc(); }

  BackwardProblem problem_;
  DeviceBackward device_;
  DeviceStream stream_;
  PlanHandle plan_;
  fa_workspace workspace_ = {};
};

class Determinism : public ::testing::TestWithParam<int64_t> {};

TEST_P(Determinism, ThirtyRunsAgreeToTheBit) {
  const cuda::Driver& driver = require_gpu();
  cuda::CUdevice gpu = 0;
  int multiprocessors = 0;
  ASSERT_EQ(driver.cuCtxGetDevice(&gpu), cuda::kCudaSuccess);
  ASSERT_EQ(driver.cuDeviceGetAttribute(&multiprocessors, cuda::kMultiprocessorCount, gpu), cuda::kCudaSuccess);
  BackwardProblem problem(everything(GetParam()), FA_DTYPE_BF16, 5);
  BusyStream busy;
  const DeviceStream stream;
  const int rounds = static_cast<int>(environment_number("FLASH_ATTN_TEST_REPEATS", 30));
  for (const std::string& kernel : gpu_kernels()) {
    DeviceBackward device(problem, Placement::aligned, kernel);
    const BackwardRun first = run_backward_on_device(&problem, &device, stream);
    if (first.status == FA_STATUS_UNSUPPORTED) continue;
    ASSERT_EQ(first.status, FA_STATUS_OK) << first.message;
    for (int round = 1; round < rounds; ++round) {
      device.mutable_desc().sm_limit = round % 3 == 1 ? std::max(1, multiprocessors / 2) : 0;
      if (round % 3 == 2) busy.run(20);
      const BackwardRun again = run_backward_on_device(&problem, &device, stream);
      ASSERT_EQ(again.status, FA_STATUS_OK) << again.message;
      ASSERT_EQ(compare_bitwise(first.gradients, again.gradients), "") << kernel << ", round " << round;
    }
  }
  busy.synchronize();
}

INSTANTIATE_TEST_SUITE_P(Dims, Determinism, ::testing::Values(64, 128, 256),
                         [](const ::testing::TestParamInfo<int64_t>& d) { return "d" + std::to_string(d.param); });

// ---- Untrusted tables, many requests ----

// Lengths from nowhere: results mean nothing, but only gradients are written and nothing outside the tensors is read.
class Hostile : public ::testing::TestWithParam<int32_t> {};

TEST_P(Hostile, TablesTouchNothingOutside) {
  for (const bool is_packed : {false, true}) {
    CaseSpec spec = {.name = "hostile", .batch = 3, .s_q = 40, .s_k = 150, .h_q = 4, .h_k = 2, .d = 64};
    spec.query_layout = is_packed ? QueryLayout::packed : QueryLayout::dense;
    spec.key_layout = is_packed ? KeyLayout::packed : KeyLayout::dense;
    spec.mask_kind = FA_MASK_PER_REQUEST;
    spec.tree_size = 20;
    spec.diagonal = FA_DIAGONAL_OFFSET_PER_REQUEST;
    spec.window_left = 30;
    spec.seqused_q = spec.seqused_k = true;
    spec.leftpad = 4;
    spec.lengths_q = {40, 7, 12};
    spec.lengths_k = {150, 64, 31};
    spec = backward_of(spec);
    for (const uint32_t flags : {0u, uint32_t{FA_FLAG_DETERMINISTIC}}) {
      spec.flags = flags;
      BackwardProblem problem(spec, FA_DTYPE_BF16, 3);
      DeviceBackward device(problem, Placement::aligned, "");
      const DeviceStream stream;
      const PlanHandle plan(device.desc(), {});
      ASSERT_EQ(plan.status(), FA_STATUS_OK) << fa_last_error();
      fa_workspace workspace = {};
      fa_workspace_init(&workspace);
      fa_plan_workspace(plan.get(), &workspace.scratch_bytes, &workspace.state_bytes);
      workspace.scratch = device.scratch(workspace.scratch_bytes);
      const fa_attention_args& a = device.args();
      for (const int32_t* table : {a.cu_seqlens_q, a.cu_seqlens_k, a.seqused_q, a.seqused_k, a.leftpad_k, a.mask_kinds,
                                   a.diagonal_offsets, a.tree_sizes}) {
        if (table == nullptr) continue;
        device.upload();
        const int32_t values[3] = {GetParam(), GetParam(), GetParam()};
        copy_to_device(reinterpret_cast<cuda::CUdeviceptr>(table), values, sizeof values);
        ASSERT_EQ(fa_run(plan.get(), &a, &workspace, stream.get(), 0), FA_STATUS_OK) << fa_last_error();
        stream.synchronize();
        copy_to_device(reinterpret_cast<cuda::CUdeviceptr>(table), device.original(table), sizeof values);
        EXPECT_EQ(device.download(), "");
        EXPECT_EQ(problem.find_damage(), "");
        problem.reset_outputs();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Values, Hostile,
                         ::testing::Values(-1, 77, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()));

TEST(Sizes, ManyRequestsAndHeads) {
  for (const bool by_heads : {false, true}) {
    CaseSpec spec = {.name = "many", .batch = by_heads ? 1 : 70000, .s_q = 1, .s_k = 3, .h_q = by_heads ? 70000 : 1, .d = 16};
    spec.h_k = spec.h_q;
    EXPECT_EQ(check_on_gpu(backward_of(spec), FA_DTYPE_BF16, 4, Placement::aligned), "");
  }
}

}  // namespace
}  // namespace flash_attn::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  flash_attn::test::require_gpu();
  return RUN_ALL_TESTS();
}
