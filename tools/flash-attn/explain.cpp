// `flash-attn explain`: the library's own account of a problem given by its shape or by the name of a case.
#include "commands.h"
#include "engine.h"
#include "errors.h"
#include "tests/support/backward_problem.h"

#include <cstdio>

namespace flash_attn::tool {
namespace {

void check_extent(const char* name, int64_t value, int64_t least) {
  if (value < least)
    throw UsageError(std::string(name) + " is " + std::to_string(value) + " but must be " + std::to_string(least) + " or more");
}

fa_attention_desc describe_shape(const ExplainOptions& options) {
  const int64_t s_k = options.s_k > 0 ? options.s_k : options.s_q;
  const int64_t kv_heads = options.kv_heads > 0 ? options.kv_heads : options.heads;
  const int64_t dim_v = options.dim_v > 0 ? options.dim_v : options.dim;
  const fa_dtype dtype = options.run.dtype.empty() ? FA_DTYPE_F32 : dtype_from_name(options.run.dtype);
  fa_attention_desc desc = new_desc();
  apply_options(options.run, &desc);
  desc.q = dense_tensor(dtype, {options.batch, options.s_q, options.heads, options.dim});
  desc.o = dense_tensor(dtype, {options.batch, options.s_q, options.heads, dim_v});
  desc.k = dense_tensor(dtype, {options.batch, s_k, kv_heads, options.dim});
  desc.v = dense_tensor(dtype, {options.batch, s_k, kv_heads, dim_v});
  if (options.page_size > 0) {
    const int64_t pages = (s_k + options.page_size - 1) / options.page_size;
    desc.kv_layout = FA_KV_PAGED;
    desc.inputs |= FA_INPUT_SEQUSED_K;
    desc.k = dense_tensor(dtype, {options.batch * pages, options.page_size, kv_heads, options.dim});
    desc.v = dense_tensor(dtype, {options.batch * pages, options.page_size, kv_heads, dim_v});
    desc.block_table = dense_tensor(FA_DTYPE_I32, {options.batch, pages});
    desc.max_s_k = s_k;
  }
  if (options.is_backward) {
    desc.direction = FA_BACKWARD;
    desc.lse = dense_tensor(FA_DTYPE_F32, {options.batch, options.heads, options.s_q});
    desc.dout = desc.o;
    desc.dq = desc.q;
    desc.dk = desc.k;
    desc.dv = desc.v;
  }
  return desc;
}

const test::CaseSpec& find_case(const std::string& name, bool is_backward) {
  for (const test::CaseSpec& spec : is_backward ? test::backward_cases() : test::all_cases()) {
    if (spec.name == name) return spec;
  }
  throw UsageError("--case is '" + name + "' but no " + (is_backward ? "backward " : "") +
                   "case has that name (see flash-attn bench --list)");
}

fa_attention_desc describe_case(const test::CaseSpec& spec, fa_dtype dtype) {
  if (spec.direction == FA_FORWARD) return test::TestProblem(spec, dtype, 1).desc();
  return test::BackwardProblem(spec, dtype, 1, test::GuardedBuffer::Edge::end, test::ForwardBy::library).desc();
}

}  // namespace

void print_explanation(const ExplainOptions& given) {
  ExplainOptions options = given;
  if (!options.arch.empty()) {  // planned for a known device of the architecture, which need not be there
    setenv("FLASH_ATTN_CUDA_ASSUME", options.arch.c_str(), 1);
    options.run.device = "cuda";
  }
  check_usage(options.run);
  if (!options.case_name.empty()) {
    const test::CaseSpec& spec = find_case(options.case_name, options.is_backward);
    const fa_dtype dtype = options.run.dtype.empty() ? FA_DTYPE_F32 : dtype_from_name(options.run.dtype);
    fa_attention_desc desc = describe_case(spec, dtype);
    const fa_attention_desc chosen = [&] {
      fa_attention_desc made = new_desc();
      apply_options(options.run, &made);
      return made;
    }();
    desc.device_type = chosen.device_type;
    desc.device_index = chosen.device_index;
    if (!options.run.isa.empty()) desc.isa = options.run.isa.c_str();
    if (!options.run.kernel.empty()) desc.kernel = options.run.kernel.c_str();
    std::printf("%s\n%s\n", test::to_text(spec).c_str(), explain_text(desc).c_str());
    return;
  }
  check_extent("--batch", options.batch, 1);
  check_extent("--s-q", options.s_q, 1);
  check_extent("--s-k", options.s_k, 0);
  check_extent("--heads", options.heads, 1);
  check_extent("--kv-heads", options.kv_heads, 0);
  check_extent("--dim", options.dim, 1);
  check_extent("--dim-v", options.dim_v, 0);
  check_extent("--page-size", options.page_size, 0);
  std::printf("%s\n", explain_text(describe_shape(options)).c_str());
}

}  // namespace flash_attn::tool
