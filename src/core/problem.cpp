// make_problem, THE validation of a description: the order of its parts. Past it, code may assume what problem.h says.
#include "core/problem.h"

#include "core/validation.h"

namespace flash_attn {

Status make_problem(const fa_attention_desc& desc, Problem* problem) {
  FA_TRY(read_options(desc, problem));
  FA_TRY(read_tensors(desc, problem));
  FA_TRY(read_query(desc, problem));
  FA_TRY(read_keys(desc, problem));
  FA_TRY(read_outputs(desc, problem));
  FA_TRY(read_features(desc, problem));
  FA_TRY(read_cache_update(desc, problem));
  return read_gradients(desc, problem);
}

}  // namespace flash_attn
