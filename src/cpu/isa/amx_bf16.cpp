// The CPU kernels compiled for AMX tiles for bf16, AVX-512 for the rest. Everything but the table has internal linkage.

#include "cpu/kernels/params.h"

#include <cstdint>
#include <utility>
#include <immintrin.h>

#define FA_VECTOR_BYTES 64
#define FA_PANEL_VECTORS 2
#define FA_TILE_ROWS 8

namespace flash_attn::cpu {
namespace amx_bf16 {
namespace {

#include "cpu/simd.h"

#include "cpu/kernels/rows_access.h"
#include "cpu/kernels/scores.h"
#include "cpu/kernels/reach.h"
#include "cpu/kernels/panel_f32.h"
#include "cpu/kernels/panel_dot2.h"
#include "cpu/kernels/panel_amx.h"
#include "cpu/kernels/panel.h"
#include "cpu/kernels/merge.h"
#include "cpu/kernels/rows.h"
#include "cpu/kernels/backward_f32.h"
#include "cpu/kernels/backward_dot2.h"
#include "cpu/kernels/backward_amx.h"
#include "cpu/kernels/backward.h"
#include "cpu/kernels/backward_sums.h"

constexpr PanelFormat kFormatF32{FA_PANEL_VECTORS * kWidth, false, 1, 1, 1};
constexpr PanelFormat kFormatBf16{FA_PANEL_VECTORS * kWidth, true, 32, 32, 2};

void forward_panel(const ForwardParams& p, const Request& r, const ForwardTask& task, char* scratch) {
  if (p.dtype == DType::bf16) {
    const TileScope tiles;
    return run_panels<AmxProducts>(p, r, task, kFormatBf16, scratch);
  }
  run_panels<F32Products>(p, r, task, kFormatF32, scratch);
}

constexpr GradientFormat kGradientsF32{kPanelLanes, false, kWidth, 1};
constexpr GradientFormat kGradientsBf16{kPanelLanes, true, 32, 32};

void backward(const BackwardParams& p, const Request& r, const BackwardTask& task, char* scratch) {
  if (p.dtype == DType::bf16 && p.o_dtype == DType::bf16) {
    const TileScope tiles;
    return BackwardLoop<AmxGradients>(p, r, task, kGradientsBf16, scratch).run();
  }
  BackwardLoop<F32Gradients>(p, r, task, kGradientsF32, scratch).run();
}

}  // namespace
}  // namespace amx_bf16

extern const KernelTable kAmxBf16Table;
const KernelTable kAmxBf16Table = {
    "amx_bf16",         amx_bf16::kFormatF32, amx_bf16::kFormatBf16,       amx_bf16::kMaxRows,      amx_bf16::forward_panel,
    amx_bf16::run_rows, amx_bf16::merge_rows, amx_bf16::row_scratch_bytes, amx_bf16::kGradientsF32, amx_bf16::kGradientsBf16,
    amx_bf16::backward, amx_bf16::sum_keys};

}  // namespace flash_attn::cpu
