// From a CaseSpec to something runnable: the description, the pointers and every buffer behind them. Whatever lies outside the
// effective lengths is poisoned with NaN and infinities, inputs are write-protected, outputs hold a sentinel, buffers end at guard
// pages. Uses the public header only.
#pragma once

#include "tests/cases.h"
#include "tests/oracle/attention_f64.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/random.h"

#include <deque>
#include <functional>
#include <string>
#include <vector>

namespace flash_attn::test {

// Values of output rows, in the order of the rows asked for.
struct Outputs {
  std::vector<float> o, lse;
};

class TestProblem {
 public:
  TestProblem(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, GuardedBuffer::Edge edge = GuardedBuffer::Edge::end);
  TestProblem(const TestProblem&) = delete;
  TestProblem& operator=(const TestProblem&) = delete;

  const CaseSpec& spec() const { return spec_; }
  fa_dtype dtype() const { return dtype_; }
  const fa_attention_desc& desc() const { return desc_; }
  const fa_attention_args& args() const { return args_; }
  // For tests that change a problem after it was built.
  fa_attention_desc& mutable_desc() { return desc_; }
  fa_attention_args& mutable_args() { return args_; }

  // Name, fields, dtype and seed: enough to build it again.
  std::string text() const;

  // The memory behind the pointers, for those who copy it elsewhere.
  const std::deque<GuardedBuffer>& inputs() const { return inputs_; }
  const GuardedBuffer& o_buffer() const { return o_; }
  const GuardedBuffer& lse_buffer() const { return lse_; }

  // Fill o and lse with the sentinel.
  void reset_outputs();
  Outputs read_outputs(const std::vector<oracle::RowId>& rows) const;
  // Replaces the live outputs by the sentinel, then looks whether anything else changed; empty if not.
  std::string find_damage();
  // Is every byte of o and lse as reset_outputs left it?
  bool outputs_untouched() const;

 private:
  friend class ProblemBuilder;

  CaseSpec spec_;
  fa_dtype dtype_;
  uint64_t seed_;
  fa_attention_desc desc_;
  fa_attention_args args_;
  std::deque<GuardedBuffer> inputs_;
  GuardedBuffer o_, lse_;
  std::vector<const void*> k_ptrs_, v_ptrs_;
};

}  // namespace flash_attn::test
