// Every test row of the case table on the GPU, on every kernel that serves it, against the oracle; dead memory is poisoned and must
// stay as it is. FLASH_ATTN_TEST_SEED and FLASH_ATTN_TEST_ROUNDS steer the random rows.
#include "cuda/device.h"
#include "tests/cuda/device_run.h"
#include "tests/support/check.h"
#include "tests/support/random_case.h"
#include "tests/support/reference.h"

#include <gtest/gtest.h>

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

// Empty if every GPU kernel either agrees with the oracle, twice to the last bit, or refuses; at least one must serve.
std::string check_on_gpu(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, Placement placement, int32_t sm_limit = 0) {
  TestProblem problem(spec, dtype, seed);
  const Reference reference = make_reference(problem);
  const double tolerance = pooled_tolerance(spec, dtype, seed, reference);
  const DeviceStream stream;
  std::string faults;
  bool served = false;
  for (const std::string& kernel : gpu_kernels()) {
    DeviceProblem device(problem, placement, kernel);
    device.mutable_desc().sm_limit = sm_limit;
    const DeviceRun first = run_on_device(&problem, &device, stream, reference.rows);
    if (first.status == FA_STATUS_UNSUPPORTED && !first.message.empty()) continue;
    served = true;
    std::string fault = first.status == FA_STATUS_OK ? first.fault : first.message;
    if (fault.empty()) fault = compare(problem, reference, first.outputs, tolerance);
    if (fault.empty()) {
      const DeviceRun second = run_on_device(&problem, &device, stream, reference.rows);
      fault = second.fault.empty() ? compare_bitwise(first.outputs, second.outputs) : second.fault;
    }
    if (!fault.empty()) faults += kernel + ": " + fault + "\n  in " + problem.text() + "\n";
  }
  // The one forced for all rows need not serve what tensor cores do not multiply.
  const bool may_refuse = forced_kernel() != nullptr && dtype == FA_DTYPE_F32;
  return served || may_refuse ? faults : faults + "no kernel serves " + problem.text() + "\n";
}

class OnGpu : public ::testing::TestWithParam<CaseSpec> {};

TEST_P(OnGpu, AgreesWithOracle) {
  for (const fa_dtype dtype : dtype_list(GetParam().dtypes)) EXPECT_EQ(check_on_gpu(GetParam(), dtype, 1, Placement::aligned), "");
}

TEST_P(OnGpu, AgreesWithOracleUnaligned) { EXPECT_EQ(check_on_gpu(GetParam(), FA_DTYPE_F16, 2, Placement::unaligned), ""); }

std::vector<CaseSpec> gpu_rows() {
  std::vector<CaseSpec> rows;
  for (const CaseSpec& spec : all_cases()) {
    if ((spec.labels & kTest) && is_served(spec)) rows.push_back(spec);
  }
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Table, OnGpu, ::testing::ValuesIn(gpu_rows()),
                         [](const ::testing::TestParamInfo<CaseSpec>& row) { return row.param.name; });

// Several tiles for every block, so that what a block carries from one tile to the next is at work; lengths and dims for every way
// to cut a tile: few and many warp groups, groups that see less than others or have no rows, stacked heads, pages.
class FewBlocks : public ::testing::TestWithParam<CaseSpec> {};

TEST_P(FewBlocks, AgreeWithOracle) { EXPECT_EQ(check_on_gpu(GetParam(), FA_DTYPE_BF16, 1, Placement::aligned, 3), ""); }

std::vector<CaseSpec> tiled_rows() {
  std::vector<CaseSpec> rows;
  const auto add = [&](const char* name, int64_t d, int64_t s_q, int64_t s_k, auto&& change) {
    CaseSpec spec = {.name = name, .batch = 2, .s_q = s_q, .s_k = s_k, .h_q = 2, .h_k = 2, .d = d, .mask_kind = FA_MASK_CAUSAL};
    change(spec);
    rows.push_back(spec);
  };
  const auto as_is = [](CaseSpec&) {};
  const auto full = [](CaseSpec& s) { s.mask_kind = FA_MASK_FULL; };
  add("causal_d64", 64, 300, 300, as_is);
  add("causal_d64_long", 64, 400, 1100, as_is);
  add("full_d64", 64, 400, 500, full);
  add("causal_d128", 128, 300, 300, as_is);
  add("causal_d128_long", 128, 300, 1100, [](CaseSpec& s) { s.batch = 1; });
  add("full_d128_long", 128, 330, 1100, full);
  add("lengths_d80_long", 80, 330, 1100, [](CaseSpec& s) { s.lengths_q = {330, 70}, s.lengths_k = {1100, 500}; });
  add("full_d96_long", 96, 330, 1100, full);
  add("causal_d112_long", 112, 330, 1100, as_is);
  add("window_d144", 144, 200, 480, [](CaseSpec& s) { s.window_left = 100; });
  add("window_d128_long", 128, 300, 1100, [](CaseSpec& s) { s.batch = 1, s.window_left = 400; });
  add("window_d64_long", 64, 400, 1100, [](CaseSpec& s) { s.window_left = 100, s.window_right = 30, s.mask_kind = FA_MASK_FULL; });
  add("first_keys_d64_long", 64, 400, 1100, [](CaseSpec& s) { s.window_left = 90, s.first_keys = 200; });
  add("causal_d256", 256, 200, 300, as_is);
  add("first_keys_d256", 256, 300, 300, [](CaseSpec& s) { s.window_left = 70, s.first_keys = 100; });
  add("full_d256_long", 256, 150, 1100, [](CaseSpec& s) { s.batch = 1, s.mask_kind = FA_MASK_FULL; });
  add("lengths_d256", 256, 300, 300, [](CaseSpec& s) {
    s.batch = 4, s.query_layout = QueryLayout::packed, s.key_layout = KeyLayout::packed;
    s.lengths_q = {300, 3, 0, 150}, s.lengths_k = {300, 70, 5, 0};
  });
  add("wide_values", 64, 200, 300, [](CaseSpec& s) { s.d_v = 256; });
  add("causal_more_rows", 64, 500, 200, as_is);
  add("lengths_d64_long", 64, 400, 1100, [](CaseSpec& s) {
    s.batch = 4, s.query_layout = QueryLayout::packed, s.key_layout = KeyLayout::packed;
    s.lengths_q = {400, 3, 0, 250}, s.lengths_k = {1100, 70, 5, 250};
  });
  // A group that passes over blocks at the end of an item, and then at the beginning of the next.
  add("chunks_d64_long", 64, 2200, 2200, [](CaseSpec& s) {
    s.h_q = s.h_k = 1, s.chunk = 1024, s.mask_kind = FA_MASK_FULL;
    s.query_layout = QueryLayout::packed, s.key_layout = KeyLayout::packed;
    s.lengths_q = {2200, 2200}, s.lengths_k = {2200, 2136};
  });
  add("groups_stacked", 64, 70, 300, [](CaseSpec& s) { s.h_q = 8; });
  add("paged_d64_long", 64, 300, 1100, [](CaseSpec& s) { s.key_layout = KeyLayout::paged, s.lengths_k = {1100, 500}; });
  add("paged_d128_long", 128, 200, 1100,
      [](CaseSpec& s) { s.batch = 1, s.key_layout = KeyLayout::paged, s.page_size = 64, s.lengths_k = {1000}; });
  // Boxes of 2 rows, more of them than a warp has lanes.
  add("paged_low_boxes", 64, 140, 1100, [](CaseSpec& s) {
    s.batch = 1, s.key_layout = KeyLayout::paged, s.page_size = 10, s.lengths_k = {1050}, s.dropout_p = 0.1f;
  });
  add("alibi_d64_long", 64, 300, 1100, [](CaseSpec& s) { s.alibi = 2, s.mask_kind = FA_MASK_FULL; });
  add("alibi_softcap_d64_long", 64, 300, 1100, [](CaseSpec& s) { s.alibi = 1, s.softcap = 20; });
  add("sections_of_heads", 64, 2, 3100, [](CaseSpec& s) { s.batch = 3, s.h_q = s.h_k = 11; });
  add("dropout_d64", 64, 300, 300, [](CaseSpec& s) { s.dropout_p = 0.2f; });
  add("mask_d64_long", 64, 300, 1100, [](CaseSpec& s) { s.mask_kind = FA_MASK_FULL, s.mask.present = true; });
  add("mask_causal_d128", 128, 200, 352, [](CaseSpec& s) { s.h_k = 1, s.mask.present = true, s.mask.broadcast = 1; });
  add("dropout_most_d128", 128, 200, 500, [](CaseSpec& s) { s.dropout_p = 0.7f, s.window_left = 200; });
  return rows;
}

// Heads that begin at any element, which threads copy and shift; where they are padded, NaN lies behind each.
std::vector<CaseSpec> loose_rows() {
  std::vector<CaseSpec> rows;
  const auto add = [&](const char* name, int64_t d, int64_t heads, auto&& change) {
    CaseSpec spec = {.name = name, .batch = 1, .s_q = 200, .s_k = 300, .h_q = heads, .h_k = heads, .d = d};
    change(spec);
    rows.push_back(spec);
  };
  const auto pack = [](CaseSpec& s) {
    s.batch = 3, s.query_layout = QueryLayout::packed, s.key_layout = KeyLayout::packed;
    s.lengths_q = {200, 0, 70}, s.lengths_k = {90, 5, 300};
  };
  add("loose_d1", 1, 8, [](CaseSpec& s) { s.mask_kind = FA_MASK_CAUSAL; });
  add("loose_d41", 41, 8, [](CaseSpec& s) { s.batch = 2, s.mask_kind = FA_MASK_CAUSAL; });
  add("loose_d81_packed", 81, 8, [&](CaseSpec& s) { pack(s), s.h_q = 16, s.mask_kind = FA_MASK_CAUSAL; });
  add("loose_d81_paged", 81, 8, [](CaseSpec& s) { s.batch = 2, s.key_layout = KeyLayout::paged, s.lengths_k = {300, 111}; });
  add("loose_d129", 129, 8, [](CaseSpec& s) { s.batch = 2; });
  add("loose_d129_heads_of_rows", 129, 3, [](CaseSpec& s) { s.strides = Strides::heads, s.s_q = s.s_k = 200; });
  add("loose_values", 72, 8, [](CaseSpec& s) { s.d_v = 41, s.window_left = 50; });
  add("loose_split", 81, 8, [](CaseSpec& s) { s.s_q = 1, s.s_k = 1500; });
  add("loose_padded_d46", 46, 3, [&](CaseSpec& s) { pack(s), s.strides = Strides::padded; });
  add("loose_padded_d100", 100, 5, [&](CaseSpec& s) { pack(s), s.strides = Strides::padded, s.d_v = 60; });
  add("loose_padded_d250", 250, 7, [&](CaseSpec& s) { pack(s), s.strides = Strides::padded, s.mask_kind = FA_MASK_CAUSAL; });
  return rows;
}

INSTANTIATE_TEST_SUITE_P(LooseTiles, FewBlocks, ::testing::ValuesIn(loose_rows()),
                         [](const ::testing::TestParamInfo<CaseSpec>& row) { return row.param.name; });

INSTANTIATE_TEST_SUITE_P(Tiles, FewBlocks, ::testing::ValuesIn(tiled_rows()),
                         [](const ::testing::TestParamInfo<CaseSpec>& row) { return row.param.name; });

// Schedules that no rule chooses, or not for problems as short as those of the table. Scores below zero are the ones that maxima by
// integers cannot order.
TEST(Schedules, AgreeWithOracle) {
  if (forced_kernel() == nullptr || std::string(forced_kernel()) != "sm90_fwd")
    GTEST_SKIP() << "runs with FLASH_ATTN_TEST_KERNEL=sm90_fwd";
  CaseSpec spec = {
      .name = "schedule", .batch = 2, .s_q = 300, .s_k = 300, .h_q = 2, .h_k = 2, .d = 64, .mask_kind = FA_MASK_CAUSAL};
  for (const char* fields :
       {"integer_tops=0", "polynomial_exp=3", "polynomial_exp=4,tile_k=80", "integer_tops=1,tile_k=112,stages=2,rotates_rows=1"}) {
    ASSERT_EQ(setenv("FLASH_ATTN_TEST_KERNEL", (std::string("sm90_fwd:") + fields).c_str(), 1), 0);
    EXPECT_EQ(check_on_gpu(spec, FA_DTYPE_BF16, 1, Placement::aligned, 3), "") << fields;
  }
  spec.alibi = 1;
  EXPECT_EQ(check_on_gpu(spec, FA_DTYPE_F16, 2, Placement::aligned, 3), "");
  spec.alibi = 0;
  for (const auto& [d, fields] : {std::pair{100, "sm90_fwd:shifts_units=1"}, std::pair{50, "sm90_fwd:shifts_units=0"}}) {
    spec.d = d;
    ASSERT_EQ(setenv("FLASH_ATTN_TEST_KERNEL", fields, 1), 0);
    EXPECT_EQ(check_on_gpu(spec, FA_DTYPE_BF16, 3, Placement::aligned, 3), "") << fields;
  }
  ASSERT_EQ(setenv("FLASH_ATTN_TEST_KERNEL", "sm90_fwd", 1), 0);
}

// Every kind of device by its shared memory: 99 KB as on sm_86 and sm_89, 163 KB as on sm_80, 227 KB as from sm_90 on.
struct SmallShape {
  int kilobytes;
  int64_t d;
};

class SmallDevice : public ::testing::TestWithParam<SmallShape> {};

TEST_P(SmallDevice, AgreesWithOracle) {
  const auto [kilobytes, d] = GetParam();
  if (forced_kernel() != nullptr && std::string(forced_kernel()) == "sm90_fwd" && kilobytes < 163 && d > 128)
    GTEST_SKIP() << "sm90_fwd holds no wide tiles in so little; no device that it is for has less than 227 KB";
  cuda::limit_shared_memory(kilobytes * 1024);
  CaseSpec spec = {.name = "small", .batch = 2, .s_q = 150, .s_k = 333, .h_q = 4, .h_k = 2, .d = d, .mask_kind = FA_MASK_CAUSAL};
  EXPECT_EQ(check_on_gpu(spec, FA_DTYPE_BF16, 1, Placement::aligned), "");
  spec.window_left = 70;
  spec.key_layout = KeyLayout::paged;
  EXPECT_EQ(check_on_gpu(spec, FA_DTYPE_BF16, 2, Placement::aligned), "");
  EXPECT_EQ(check_on_gpu(spec, FA_DTYPE_F32, 3, Placement::aligned), "");
  spec.window_left = -1;
  spec.seqused_k = true;
  EXPECT_EQ(check_on_gpu(spec, FA_DTYPE_F16, 4, Placement::aligned), "");
  cuda::limit_shared_memory(0);
}

std::vector<SmallShape> small_shapes() {
  std::vector<SmallShape> shapes;
  for (const int kilobytes : {99, 163, 227}) {
    for (const int64_t d : {40, 64, 96, 128, 192, 256}) shapes.push_back({kilobytes, d});
  }
  return shapes;
}

INSTANTIATE_TEST_SUITE_P(Kilobytes, SmallDevice, ::testing::ValuesIn(small_shapes()),
                         [](const ::testing::TestParamInfo<SmallShape>& shape) {
                           return "kb" + std::to_string(shape.param.kilobytes) + "_d" + std::to_string(shape.param.d);
                         });

TEST(Random, AgreesWithOracle) {
  const uint64_t seed = environment_number("FLASH_ATTN_TEST_SEED", 1), rounds = environment_number("FLASH_ATTN_TEST_ROUNDS", 12);
  for (uint64_t round = 0; round < rounds; ++round) {
    Random random(seed * 1000003 + round);
    const CaseSpec spec = random_case(&random);
    if (!is_served(spec)) continue;
    const std::vector<fa_dtype> dtypes = dtype_list(spec.dtypes);
    const fa_dtype dtype = dtypes[round % dtypes.size()];
    EXPECT_EQ(check_on_gpu(spec, dtype, seed + round, round % 2 == 0 ? Placement::aligned : Placement::unaligned), "");
  }
}

}  // namespace
}  // namespace flash_attn::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  flash_attn::test::require_gpu();
  return RUN_ALL_TESTS();
}
