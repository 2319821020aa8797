// The CPU kernels compiled for arm64 with NEON. Everything but the table has internal linkage.

#include "cpu/kernels/params.h"

#include <cstdint>
#include <utility>
#include <arm_neon.h>

#define FA_VECTOR_BYTES 16
#define FA_PANEL_VECTORS 4
#define FA_TILE_ROWS 4

namespace flash_attn::cpu {
namespace neon {
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
}  // namespace neon

extern const KernelTable kNeonTable;
const KernelTable kNeonTable = {"neon",         neon::kFormat,    neon::kFormat,           neon::kMaxRows,      neon::forward_panel,
                                neon::run_rows, neon::merge_rows, neon::row_scratch_bytes, neon::kGradientsF32, neon::kGradientsF32,
                                neon::backward, neon::sum_keys};

}  // namespace flash_attn::cpu
