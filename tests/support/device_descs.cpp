// See device_descs.h. A problem is built once, as filling it with data takes most of the time; its other dtypes differ in the
// dtype of the tensors that have that of q.
#include "tests/support/device_descs.h"

#include "tests/support/backward_problem.h"

namespace flash_attn::test {
namespace {

fa_attention_desc describe(const CaseSpec& spec, fa_dtype dtype) {
  if (spec.direction == FA_BACKWARD) return BackwardProblem(spec, dtype, 1, GuardedBuffer::Edge::end, ForwardBy::library).desc();
  return TestProblem(spec, dtype, 1).desc();
}

void set_gradient_dtypes(const CaseSpec& spec, fa_dtype dtype, fa_attention_desc* desc) {
  desc->dout.dtype = desc->o.dtype;
  for (fa_tensor_desc* tensor : {&desc->dq, &desc->dk, &desc->dv}) tensor->dtype = spec.gradients.as_f32 ? FA_DTYPE_F32 : dtype;
}

}  // namespace

std::vector<fa_attention_desc> device_descs(const CaseSpec& spec) {
  std::vector<fa_attention_desc> descs;
  const std::vector<fa_dtype> dtypes = dtype_list(spec.dtypes);
  if (dtypes.empty()) return descs;
  fa_attention_desc base = describe(spec, dtypes.front());
  base.device_type = FA_DEVICE_CUDA;
  base.num_threads = 0;
  for (const fa_dtype dtype : dtypes) {
    fa_attention_desc desc = base;
    for (fa_tensor_desc* tensor : {&desc.q, &desc.k, &desc.v}) tensor->dtype = dtype;
    if (spec.o_dtype == FA_DTYPE_NONE) desc.o.dtype = dtype;
    if (spec.bias.present && !spec.bias.as_f32) desc.bias.dtype = dtype;
    if (spec.direction == FA_BACKWARD) set_gradient_dtypes(spec, dtype, &desc);
    descs.push_back(desc);
  }
  return descs;
}

}  // namespace flash_attn::test
