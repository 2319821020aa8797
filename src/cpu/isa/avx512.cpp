// The CPU kernels compiled for AVX-512 (x86-64-v4). Everything but the table has internal linkage.

#include "cpu/kernels/params.h"

#include <cstdint>
#include <utility>
#include <immintrin.h>

#define FA_VECTOR_BYTES 64
#define FA_PANEL_VECTORS 2
#define FA_TILE_ROWS 8

namespace flash_attn::cpu {
namespace avx512 {
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
}  // namespace avx512

extern const KernelTable kAvx512Table;
const KernelTable kAvx512Table = {
    "avx512",         avx512::kFormat,    avx512::kFormat,           avx512::kMaxRows,      avx512::forward_panel,
    avx512::run_rows, avx512::merge_rows, avx512::row_scratch_bytes, avx512::kGradientsF32, avx512::kGradientsF32,
    avx512::backward, avx512::sum_keys};

}  // namespace flash_attn::cpu
