// The one definition of which keys a query row sees: an interval [lo, hi) of keys, the always-visible first keys below it, and the
// tree bits. Everything is in effective indices (docs/design.md, "Semantics"). Shared by all rooms; compiles under NVRTC.
#pragma once

#include "math/types.h"

namespace flash_attn {

// Mask of one request with its lengths filled in.
struct MaskRule {
  long long s_k = 0;
  long long delta = 0;         // the diagonal: query i stands at key i + delta
  long long window_left = -1;  // -1: unbounded
  long long window_right = -1;
  long long first_keys = 0;
  long long chunk = 0;  // 0: off
  bool causal = false;
};

// Keys [lo, hi), clamped to [0, s_k], and [0, first) with first <= lo. Empty when lo == hi and first == 0.
struct KeyInterval {
  long long lo = 0;
  long long hi = 0;
  long long first = 0;
};

FA_HOST_DEVICE long long clamp_to(long long value, long long low, long long high) {
  return value < low ? low : (value > high ? high : value);
}

FA_HOST_DEVICE long long floor_div(long long a, long long b) {
  const long long quotient = a / b;
  return quotient * b > a ? quotient - 1 : quotient;
}

// The first key of the chunk that the diagonal stands in, or where that is not seen one that hides the same keys: a GPU divides 32
// bits, since 64 take a call and the registers around it; its requests have at most 2^30 keys.
FA_HOST_DEVICE long long chunk_begin(long long diagonal, long long chunk) {
#ifdef __CUDACC_RTC__
  constexpr long long most = 1LL << 30;
  if (chunk > most) return diagonal < 0 ? -chunk : (diagonal < chunk ? 0 : chunk);
  const int at = static_cast<int>(clamp_to(diagonal, -0x7FFFFFFF, 0x7FFFFFFF)), size = static_cast<int>(chunk);
  const int quotient = at / size;
  return static_cast<long long>(quotient * size > at ? quotient - 1 : quotient) * chunk;
#else
  return floor_div(diagonal, chunk) * chunk;
#endif
}

FA_HOST_DEVICE KeyInterval key_interval(const MaskRule& rule, long long i) {
  const long long diagonal = i + rule.delta;
  long long right = rule.window_right;
  if (rule.causal && right != 0) right = 0;
  long long lo = rule.window_left < 0 ? -kUnbounded : diagonal - rule.window_left;
  long long hi = right < 0 ? kUnbounded : diagonal + right + 1;
  if (rule.chunk > 0) {
    const long long begin = chunk_begin(diagonal, rule.chunk);
    if (begin > lo) lo = begin;
    if (begin + rule.chunk < hi) hi = begin + rule.chunk;
  }
  KeyInterval keys;
  keys.hi = clamp_to(hi, 0, rule.s_k);
  keys.lo = clamp_to(lo, 0, keys.hi);
  keys.first = clamp_to(rule.first_keys, 0, keys.lo);
  return keys;
}

// The other way round, for the kernels that walk over queries: queries [lo, hi) of [0, s_q) that see key j, first_keys aside.
struct QueryInterval {
  long long lo = 0;
  long long hi = 0;
};

FA_HOST_DEVICE QueryInterval query_interval(const MaskRule& rule, long long s_q, long long j) {
  long long right = rule.window_right;
  if (rule.causal && right != 0) right = 0;
  long long lo = right < 0 ? -kUnbounded : j - rule.delta - right;
  long long hi = rule.window_left < 0 ? kUnbounded : j - rule.delta + rule.window_left + 1;
  if (rule.chunk > 0) {
    const long long begin = chunk_begin(j, rule.chunk) - rule.delta;
    if (begin > lo) lo = begin;
    if (begin + rule.chunk < hi) hi = begin + rule.chunk;
  }
  QueryInterval queries;
  if (j < 0 || j >= rule.s_k) return queries;
  queries.hi = clamp_to(hi, 0, s_q);
  queries.lo = clamp_to(lo, 0, queries.hi);
  return queries;
}

FA_HOST_DEVICE bool is_visible(const KeyInterval& keys, long long j) { return j < keys.first || (j >= keys.lo && j < keys.hi); }

// Tree masks: the request's last tree_size keys are the tree; a row's bits (LSB first) show them, the prefix before is visible.
FA_HOST_DEVICE bool tree_visible(const unsigned long long* row, long long prefix, long long j) {
  return j < prefix || ((row[(j - prefix) >> 6] >> ((j - prefix) & 63)) & 1);
}

}  // namespace flash_attn
