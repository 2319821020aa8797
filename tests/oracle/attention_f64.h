// The oracle: attention forward in fp64, one quadruple at a time, and the "plain" low-precision model that the tolerance rule of
// docs/design.md ("Precision") is measured against. Takes the very structs that the library takes, with host pointers.
#pragma once

#include "tests/oracle/view.h"

#include <cstdint>
#include <vector>

namespace flash_attn::oracle {

enum class Model {
  exact,  // fp64 throughout, outputs not rounded
  plain   // S, P and o rounded to the types a naive implementation would use, the rest in fp32
};

struct RowId {
  int64_t request = 0, head = 0, i = 0;
};

// Values of output rows: o is [rows.size(), d_v], lse is [rows.size()].
struct Result {
  std::vector<RowId> rows;
  std::vector<double> o, lse;
};

// Every live output row: requests, then heads, then query rows.
std::vector<RowId> all_rows(const View& view);

// About `count` of them, spread evenly and always including each request's first and last row.
std::vector<RowId> sampled_rows(const View& view, int64_t count);

// Rows that share a request and key head should be adjacent: keys and values are read once for such a run.
Result forward(const View& view, Model model, const std::vector<RowId>& rows);

}  // namespace flash_attn::oracle
