// The oracle's backward: analytic gradients in fp64, one quadruple at a time, and those of the "plain" model. Own derivation from
// the forward's formulas in docs/design.md; no code is shared with the library.
#pragma once

#include "tests/oracle/attention_f64.h"

#include <cstdint>
#include <vector>

namespace flash_attn::oracle {

// A gradient of a whole tensor: its elements in the order of their indices, without gaps. `live` marks the elements to which some
// visible pair (of the sink: some query row) contributes; all others are exactly 0.
struct Gradient {
  std::vector<double> values;
  std::vector<uint8_t> live;

  void resize(int64_t elements) {
    values.assign(static_cast<size_t>(elements), 0.0);
    live.assign(static_cast<size_t>(elements), 0);
  }
};

// Empty where the description asks for none.
struct Gradients {
  Gradient dq, dk, dv, dbias, dsink, dslopes;
};

// Not rounded at the end, so that the caller may first add what is accumulated to. The plain model computes in fp32; S, P, dP and
// dS are rounded to the input type, o (in the row sums of do * o) to its own.
Gradients backward(const View& view, Model model);

}  // namespace flash_attn::oracle
