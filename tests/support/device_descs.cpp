// See device_descs.h. A problem is built once, as filling it with data takes most of the time; its other dtypes differ in the
// dtype of the tensors that have that of q.
#include "tests/support/device_descs.h"

#include "tests/support/problem_builder.h"

namespace flash_attn::test {

std::vector<fa_attention_desc> device_descs(const CaseSpec& spec) {
  std::vector<fa_attention_desc> descs;
  const std::vector<fa_dtype> dtypes = dtype_list(spec.dtypes);
  if (dtypes.empty()) return descs;
  fa_attention_desc base = TestProblem(spec, dtypes.front(), 1).desc();
  base.device_type = FA_DEVICE_CUDA;
  base.num_threads = 0;
  for (const fa_dtype dtype : dtypes) {
    fa_attention_desc desc = base;
    for (fa_tensor_desc* tensor : {&desc.q, &desc.k, &desc.v}) tensor->dtype = dtype;
    if (spec.o_dtype == FA_DTYPE_NONE) desc.o.dtype = dtype;
    if (spec.bias.present && !spec.bias.as_f32) desc.bias.dtype = dtype;
    descs.push_back(desc);
  }
  return descs;
}

}  // namespace flash_attn::test
