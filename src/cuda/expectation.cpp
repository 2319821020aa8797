// See expectation.h. Rates are those of NVIDIA's architecture papers: per multiprocessor and clock, dense, fp32 accumulation.
#include "cuda/expectation.h"

#include "core/status.h"
#include "math/mask.h"

#include <algorithm>

namespace flash_attn::cuda {
namespace {

struct UnitRates {
  int capability;  // and newer ones up to the next row
  int tensor16, f32;
};
constexpr UnitRates kRates[] = {{80, 2048, 128}, {86, 512, 256},   {87, 1024, 256}, {89, 512, 256},
                                {90, 4096, 256}, {100, 8192, 256}, {120, 512, 256}};

constexpr int64_t kMostRowsCounted = 1 << 16;  // of more, every n-th is counted

MaskRule rule_of(const Problem& p) {
  MaskRule rule;
  rule.s_k = p.max_s_k;
  rule.delta = p.diagonal == Diagonal::bottom_right ? p.max_s_k - p.max_s_q
               : p.diagonal == Diagonal::offset     ? p.diagonal_offset
                                                    : 0;
  rule.window_left = p.window_left;
  rule.window_right = p.window_right;
  rule.first_keys = p.first_keys;
  rule.chunk = p.chunk;
  rule.causal = p.mask_kind == MaskKind::causal;
  return rule;
}

// Pairs of a query row and a key that it sees, of one request and head.
double visible_pairs(const Problem& p) {
  const MaskRule rule = rule_of(p);
  const int64_t step = std::max<int64_t>(1, p.max_s_q / kMostRowsCounted);
  double keys = 0;
  int64_t counted = 0;
  for (int64_t row = step / 2; row < p.max_s_q; row += step, ++counted) {
    const KeyInterval seen = key_interval(rule, row);
    keys += static_cast<double>(seen.hi - seen.lo + seen.first);
  }
  return counted == 0 ? 0 : keys / static_cast<double>(counted) * static_cast<double>(p.max_s_q);
}

}  // namespace

double count_operations(const Problem& p) {
  const int64_t columns = p.direction == Direction::backward ? 3 * p.d + 2 * p.d_v : p.d + p.d_v;
  return 2.0 * static_cast<double>(columns) * static_cast<double>(p.b * p.h_q) * visible_pairs(p);
}

double count_bytes(const Problem& p) {
  const auto rows = static_cast<double>(p.b * p.max_s_q * p.h_q), keys = static_cast<double>(p.b * p.max_s_k * p.h_k);
  const double in = static_cast<double>(dtype_bytes(p.dtype)), out = static_cast<double>(dtype_bytes(p.o_dtype));
  const auto d = static_cast<double>(p.d), d_v = static_cast<double>(p.d_v);
  const double forward = rows * (d * in + d_v * out) + keys * (d + d_v) * in;
  // A backward reads what the forward moved and dout, and writes a gradient for each input.
  return p.direction == Direction::backward ? forward + rows * d_v * out + (rows * d + keys * (d + d_v)) * in : forward;
}

double peak_rate(const DeviceInfo& device, DType dtype) {
  const UnitRates* rates = nullptr;
  for (const UnitRates& row : kRates)
    if (row.capability <= device.compute_capability) rates = &row;
  if (rates == nullptr) return 0;
  return 1e3 * device.clock_khz * device.multiprocessors * (dtype == DType::f32 ? rates->f32 : rates->tensor16);
}

std::string expectation_text(const Problem& p, const DeviceInfo& device) {
  const double rate = peak_rate(device, p.dtype), bandwidth = static_cast<double>(device.memory_bandwidth);
  if (!(rate > 0) || !(bandwidth > 0)) return {};
  const double compute = count_operations(p) / rate, move = count_bytes(p) / bandwidth;
  return format_text(
      "expected: at least %.4g ms with all requests at their most (arithmetic %.4g ms at %.0f TFLOP/s, memory %.4g ms at %.0f "
      "GB/s)\n",
      1e3 * std::max(compute, move), 1e3 * compute, 1e-12 * rate, 1e3 * move, 1e-9 * bandwidth);
}

}  // namespace flash_attn::cuda
