// The CPU kernels compiled for AVX2 with FMA and F16C (x86-64-v3). Everything but the table has internal linkage.

#include "cpu/kernels/params.h"

#include <cstdint>
#include <utility>
#include <immintrin.h>

#define FA_VECTOR_BYTES 32
#define FA_PANEL_VECTORS 3
#define FA_TILE_ROWS 4

namespace flash_attn::cpu {
namespace avx2 {
namespace {

#include "cpu/simd.h"

#include "cpu/kernels/rows_access.h"
#include "cpu/kernels/scores.h"
#include "cpu/kernels/reach.h"
#include "cpu/kernels/panel_f32.h"
#include "cpu/kernels/panel.h"
#include "cpu/kernels/merge.h"
#include "cpu/kernels/rows.h"
#include "cpu/kernels/backward_f32.h"
#include "cpu/kernels/backward.h"
#include "cpu/kernels/backward_sums.h"

constexpr PanelFormat kFormat{FA_PANEL_VECTORS * kWidth, false, 1, 1, 1};

void forward_panel(const ForwardParams& p, const Request& r, const ForwardTask& task, char* scratch) {
  run_panels<F32Products>(p, r, task, kFormat, scratch);
}

constexpr GradientFormat kGradientsF32{kPanelLanes, false, kWidth, 1};

void backward(const BackwardParams& p, const Request& r, const BackwardTask& task, char* scratch) {
  BackwardLoop<F32Gradients>(p, r, task, kGradientsF32, scratch).run();
}

}  // namespace
}  // namespace avx2

extern const KernelTable kAvx2Table;
const KernelTable kAvx2Table = {"avx2",         avx2::kFormat,    avx2::kFormat,           avx2::kMaxRows,      avx2::forward_panel,
                                avx2::run_rows, avx2::merge_rows, avx2::row_scratch_bytes, avx2::kGradientsF32, avx2::kGradientsF32,
                                avx2::backward, avx2::sum_keys};

}  // namespace flash_attn::cpu
