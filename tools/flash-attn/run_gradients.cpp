// The backward of `run`: incoming gradients from files, outgoing ones beside the tensors they belong to, and a description that
// says the forward's again.
#include "run_gradients.h"

#include "files.h"

namespace flash_attn::tool {
namespace {

std::vector<int64_t> shape_of(const fa_tensor_desc& tensor) { return {tensor.shape, tensor.shape + tensor.rank}; }

// A gradient of `of`, which the library writes.
Array& make_gradient(const std::string& path, const fa_tensor_desc& of, Element element, const char* argument,
                     fa_tensor_desc* tensor, Job* job) {
  Array& array = job->make_output(shape_of(of), element, path);
  *tensor = describe(array, argument);
  return array;
}

float* make_optional(const std::string& path, const fa_tensor_desc& of, const char* argument, fa_tensor_desc* tensor, Job* job) {
  return path.empty() ? nullptr : make_gradient(path, of, Element::f32, argument, tensor, job).as<float>().data();
}

}  // namespace

void add_backward(const RunOptions& options, Job* job) {
  job->has_backward = true;
  fa_attention_desc& desc = job->backward_desc;
  fa_attention_args& args = job->backward_args;
  desc = job->desc;
  args = job->args;
  desc.direction = FA_BACKWARD;
  desc.num_splits = 0;  // of the forward's keys
  desc.kernel = nullptr;
  const Element element = element_of(desc.q.dtype);
  const Array& dout = job->keep(to_float(load_array(options.dout), element, "--dout"));
  desc.dout = describe(dout, "--dout");
  args.dout = dout.data();
  if (!options.dlse.empty()) {
    const Array& dlse = job->keep(to_float(load_array(options.dlse), Element::f32, "--dlse"));
    desc.dlse = describe(dlse, "--dlse");
    args.dlse = dlse.as<float>().data();
  }
  args.dq = make_gradient(options.dq, desc.q, element, "--dq", &desc.dq, job).data();
  args.dk = make_gradient(options.dk, desc.k, element, "--dk", &desc.dk, job).data();
  args.dv = make_gradient(options.dv, desc.v, element, "--dv", &desc.dv, job).data();
  args.dbias = make_optional(options.dbias, desc.bias, "--dbias", &desc.dbias, job);
  args.dsink = make_optional(options.dsink, desc.sink, "--dsink", &desc.dsink, job);
  args.dslopes = make_optional(options.dslopes, desc.alibi, "--dslopes", &desc.dslopes, job);
}

}  // namespace flash_attn::tool
