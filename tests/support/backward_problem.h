// A backward case made runnable: the forward problem's inputs, the o and lse that a forward gives, incoming gradients, and buffers
// for the outgoing ones. What lies outside the lengths of an input is poisoned; what is no element of an output must stay as it
// was. Uses the public header only.
#pragma once

#include "tests/oracle/backward_f64.h"
#include "tests/support/problem_builder.h"

#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace flash_attn::test {

// The gradients that a run writes. Not each case has the last three.
enum class GradientId : int { dq, dk, dv, dbias, dsink, dslopes };
inline constexpr int kGradients = 6;
inline constexpr const char* kGradientNames[kGradients] = {"dq", "dk", "dv", "dbias", "dsink", "dslopes"};

// Elements of each gradient in the order of their indices, without gaps; empty where the case has none.
struct GradientValues {
  std::vector<float> of[kGradients];
};

// Where o and lse come from.
enum class ForwardBy {
  oracle,  // the exact ones, rounded to their types
  library  // on a CPU; for problems too large for the oracle
};

class BackwardProblem {
 public:
  // A case with direction FA_BACKWARD.
  BackwardProblem(const CaseSpec& spec, fa_dtype dtype, uint64_t seed, GuardedBuffer::Edge edge = GuardedBuffer::Edge::end,
                  ForwardBy forward_by = ForwardBy::oracle);

  const CaseSpec& spec() const { return forward_.spec(); }
  fa_dtype dtype() const { return forward_.dtype(); }
  const fa_attention_desc& desc() const { return desc_; }
  const fa_attention_args& args() const { return args_; }
  fa_attention_desc& mutable_desc() { return desc_; }
  fa_attention_args& mutable_args() { return args_; }
  std::string text() const { return forward_.text(); }

  // The memory behind the pointers, for those who copy it elsewhere. All inputs are write-protected.
  std::vector<const GuardedBuffer*> inputs() const;
  std::vector<const GuardedBuffer*> outputs() const;

  const fa_tensor_desc& tensor(GradientId id) const;
  bool accumulates(GradientId id) const;
  // What a gradient's elements are before a run: something to add to, or a sentinel.
  const std::vector<float>& base(GradientId id) const { return outputs_[static_cast<int>(id)].base; }

  // The outputs' initial contents again.
  void reset_outputs();
  GradientValues read_outputs() const;
  // Looks whether anything but the outputs' elements changed; empty if not. Leaves the initial contents.
  std::string find_damage();
  bool outputs_untouched() const;

 private:
  struct Output {
    GuardedBuffer own;         // empty where the memory is another gradient's
    char* data = nullptr;      // element 0
    std::vector<float> base;   // per element
    fa_tensor_desc desc = {};  // dtype NONE: absent
  };

  GuardedBuffer& new_input(fa_dtype dtype, int64_t elements, GuardedBuffer::Edge edge);
  void make_forward_results(GuardedBuffer::Edge edge, ForwardBy by);
  void ask_oracle();
  void ask_library();
  void make_incoming(Random* random, GuardedBuffer::Edge edge);
  void make_outputs(Random* random, GuardedBuffer::Edge edge);
  void make_output(GradientId id, const fa_tensor_desc& desc, int64_t elements, Random* random, GuardedBuffer::Edge edge);
  void fill(GradientId id, Random* random);
  void set_pointers();

  TestProblem forward_;
  fa_attention_desc desc_;
  fa_attention_args args_;
  std::deque<GuardedBuffer> inputs_;
  Output outputs_[kGradients];
  std::vector<std::vector<char>> initial_;  // of each own buffer, in the order of outputs()
};

// Offsets of a tensor's elements in the order of their indices.
std::vector<int64_t> element_offsets(const fa_tensor_desc& tensor);

}  // namespace flash_attn::test
