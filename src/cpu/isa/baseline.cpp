// The CPU kernels compiled for the x86-64 baseline (SSE2), and any other machine through the compiler's vector extensions.
// Everything but the table has internal linkage.

#include "cpu/kernels/params.h"

#include <cstdint>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define FA_VECTOR_BYTES 16
#define FA_PANEL_VECTORS 2
#define FA_TILE_ROWS 4

namespace flash_attn::cpu {
namespace baseline {
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
}  // namespace baseline

extern const KernelTable kBaselineTable;
const KernelTable kBaselineTable = {
    "baseline",         baseline::kFormat,    baseline::kFormat,           baseline::kMaxRows,      baseline::forward_panel,
    baseline::run_rows, baseline::merge_rows, baseline::row_scratch_bytes, baseline::kGradientsF32, baseline::kGradientsF32,
    baseline::backward, baseline::sum_keys};

}  // namespace flash_attn::cpu
