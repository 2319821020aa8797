// The CPU kernels compiled for AVX-512 with bf16 dot products. Everything but the table has internal linkage.

#include "cpu/kernels/params.h"

#include <cstdint>
#include <utility>
#include <immintrin.h>

#define FA_VECTOR_BYTES 64
#define FA_PANEL_VECTORS 2
#define FA_TILE_ROWS 8

namespace flash_attn::cpu {
namespace avx512_bf16 {
namespace {

#include "cpu/simd.h"

#include "cpu/kernels/rows_access.h"
#include "cpu/kernels/scores.h"
#include "cpu/kernels/reach.h"
#include "cpu/kernels/panel_f32.h"
#include "cpu/kernels/panel_dot2.h"
#include "cpu/kernels/panel.h"
#include "cpu/kernels/merge.h"
#include "cpu/kernels/rows.h"
#include "cpu/kernels/backward_f32.h"
#include "cpu/kernels/backward_dot2.h"
#include "cpu/kernels/backward.h"
#include "cpu/kernels/backward_sums.h"

constexpr PanelFormat kFormatF32{FA_PANEL_VECTORS * kWidth, false, 1, 1, 1};
constexpr PanelFormat kFormatBf16{FA_PANEL_VECTORS * kWidth, true, 2, 1, 1};

void forward_panel(const ForwardParams& p, const Request& r, const ForwardTask& task, char* scratch) {
  if (p.dtype == DType::bf16) return run_panels<Dot2Products>(p, r, task, kFormatBf16, scratch);
  run_panels<F32Products>(p, r, task, kFormatF32, scratch);
}

constexpr GradientFormat kGradientsF32{kPanelLanes, false, kWidth, 1};
constexpr GradientFormat kGradientsBf16{kPanelLanes, true, kWidth, 1};

void backward(const BackwardParams& p, const Request& r, const BackwardTask& task, char* scratch) {
  if (p.dtype == DType::bf16 && p.o_dtype == DType::bf16)
    return BackwardLoop<Dot2Gradients>(p, r, task, kGradientsBf16, scratch).run();
  BackwardLoop<F32Gradients>(p, r, task, kGradientsF32, scratch).run();
}

}  // namespace
}  // namespace avx512_bf16

extern const KernelTable kAvx512Bf16Table;
const KernelTable kAvx512Bf16Table = {"avx512_bf16",
                                      avx512_bf16::kFormatF32,
                                      avx512_bf16::kFormatBf16,
                                      avx512_bf16::kMaxRows,
                                      avx512_bf16::forward_panel,
                                      avx512_bf16::run_rows,
                                      avx512_bf16::merge_rows,
                                      avx512_bf16::row_scratch_bytes,
                                      avx512_bf16::kGradientsF32,
                                      avx512_bf16::kGradientsBf16,
                                      avx512_bf16::backward,
                                      avx512_bf16::sum_keys};

}  // namespace flash_attn::cpu
