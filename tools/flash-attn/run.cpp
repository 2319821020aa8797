// Reads the arrays that the options name and describes the problem. What the arrays must look like is the library's to judge; this
// file only converts element types and derives the extents that a description carries beside the tensors.
#include "run.h"

#include "errors.h"
#include "files.h"
#include "run_gradients.h"
#include "run_job.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace flash_attn::tool {
namespace {

void load_qkv(const RunOptions& options, Job* job) {
  const Array q = load_array(options.q);
  Element target = q.element();
  if (!options.dtype.empty()) target = element_of(dtype_from_name(options.dtype));
  const Array& q_used = job->keep(to_float(q, target, "--q"));
  const Array& k_used = job->keep(to_float(load_array(options.k), target, "--k"));
  const Array& v_used = job->keep(to_float(load_array(options.v), target, "--v"));
  job->desc.q = describe(q_used, "--q");
  job->desc.k = describe(k_used, "--k");
  job->desc.v = describe(v_used, "--v");
  job->args.q = q_used.data();
  job->args.k = k_used.data();
  job->args.v = v_used.data();
}

// An int32 vector, checked against the number of requests here because the description carries no shape for it.
const Array* load_vector(const std::string& path, const char* argument, int64_t length, Job* job) {
  if (path.empty()) return nullptr;
  const Array& array = job->keep(to_int32(load_array(path), argument));
  if (array.rank() != 1 || (length >= 0 && array.count() != length)) {
    throw FileError(std::string(argument) + " has shape " + shape_text(array.shape()) + " but must be " +
                    (length >= 0 ? "[" + std::to_string(length) + "]" : std::string("one-dimensional, [b+1]")));
  }
  return &array;
}

const int32_t* values(const Array* array) { return array == nullptr ? nullptr : array->as<int32_t>().data(); }

// Longest request by its row offsets; 0, "the library decides", where the offsets are not sound: the run will refuse them.
int64_t longest(const Array& offsets, int64_t total) {
  const auto rows = offsets.as<int32_t>();
  int64_t most = 0;
  for (size_t i = 1; i < rows.size(); ++i) {
    if (rows[i] < rows[i - 1] || rows[i - 1] < 0 || rows[i] > total) return 0;
    most = std::max<int64_t>(most, int64_t{rows[i]} - rows[i - 1]);
  }
  return most;
}

void load_lengths(const RunOptions& options, Job* job) {
  fa_attention_desc& desc = job->desc;
  fa_attention_args& args = job->args;
  int64_t b = desc.q.shape[0];
  if (const Array* offsets = load_vector(options.cu_seqlens_q, "--cu-seqlens-q", -1, job)) {
    if (offsets->count() < 1) throw FileError("--cu-seqlens-q has shape [0] but must hold b+1 offsets");
    b = offsets->count() - 1;
    desc.inputs |= FA_INPUT_CU_SEQLENS_Q;
    desc.batch = b;
    desc.max_s_q = longest(*offsets, desc.q.shape[0]);
    args.cu_seqlens_q = values(offsets);
  }
  if (const Array* offsets = load_vector(options.cu_seqlens_k, "--cu-seqlens-k", b + 1, job)) {
    desc.inputs |= FA_INPUT_CU_SEQLENS_K;
    desc.max_s_k = longest(*offsets, desc.k.shape[0]);
    args.cu_seqlens_k = values(offsets);
  }
  struct Vector {
    const std::string& path;
    const char* argument;
    uint32_t bit;
    const int32_t** target;
  };
  const Vector vectors[] = {{options.seqused_q, "--seqused-q", FA_INPUT_SEQUSED_Q, &args.seqused_q},
                            {options.seqused_k, "--seqused-k", FA_INPUT_SEQUSED_K, &args.seqused_k},
                            {options.leftpad_k, "--leftpad-k", FA_INPUT_LEFTPAD_K, &args.leftpad_k},
                            {options.cache_batch_idx, "--cache-batch-idx", FA_INPUT_CACHE_BATCH_IDX, &args.cache_batch_idx}};
  for (const Vector& vector : vectors) {
    if (const Array* array = load_vector(vector.path, vector.argument, b, job)) {
      desc.inputs |= vector.bit;
      *vector.target = values(array);
    }
  }
  args.tree_sizes = values(load_vector(options.tree_size, "--tree-size", b, job));
  if (!options.block_table.empty()) {
    const Array& table = job->keep(to_int32(load_array(options.block_table), "--block-table"));
    desc.kv_layout = FA_KV_PAGED;
    desc.block_table = describe(table, "--block-table");
    args.block_table = values(&table);
  }
}

// Whether q and k are packed shows in their rank; the options must agree.
void check_packing(const fa_tensor_desc& tensor, const char* argument, const std::string& offsets, const char* offsets_argument) {
  if (tensor.rank == 3 && offsets.empty()) {
    throw UsageError(std::string(argument) + " is packed (it has 3 dimensions) and needs " + offsets_argument);
  }
  if (tensor.rank == 4 && !offsets.empty()) {
    throw UsageError(std::string(offsets_argument) + " is for packed arrays, but " + argument + " has 4 dimensions");
  }
}

const Array& load_scores_input(const std::string& path, const char* argument, fa_tensor_desc* tensor, Job* job) {
  Array array = load_array(path);
  if (std::string(argument) == "--mask") {
    array = to_mask(array, argument);
  } else if (std::string(argument) == "--bias" && dtype_of(array.element()) == job->desc.q.dtype) {
    array = to_float(array, array.element(), argument);
  } else {
    array = to_float(array, Element::f32, argument);
  }
  const Array& kept = job->keep(std::move(array));
  *tensor = describe(kept, argument);
  return kept;
}

void load_scores_inputs(const RunOptions& options, Job* job) {
  fa_attention_desc& desc = job->desc;
  fa_attention_args& args = job->args;
  if (!options.alibi.empty()) args.alibi = load_scores_input(options.alibi, "--alibi", &desc.alibi, job).as<float>().data();
  if (!options.sink.empty()) args.sink = load_scores_input(options.sink, "--sink", &desc.sink, job).as<float>().data();
  if (!options.bias.empty()) args.bias = load_scores_input(options.bias, "--bias", &desc.bias, job).data();
  if (!options.mask.empty()) args.mask = load_scores_input(options.mask, "--mask", &desc.mask, job).as<uint8_t>().data();
  if (!options.tree_mask.empty()) {
    const Array& tree = job->keep(to_uint64(load_array(options.tree_mask), "--tree-mask"));
    desc.tree_mask = describe(tree, "--tree-mask");
    // A dense q has its rows in [b, s_q]; the file's [total rows, words] is the same memory.
    if (tree.rank() == 2 && desc.q.rank == 4 && tree.shape()[0] == desc.q.shape[0] * desc.q.shape[1]) {
      desc.tree_mask = dense_tensor(FA_DTYPE_U64, {desc.q.shape[0], desc.q.shape[1], tree.shape()[1]});
    }
    args.tree_mask = tree.as<uint64_t>().data();
  }
  // Where lengths come from tables, a bias or mask tells how many keys a request can have.
  const bool is_table = desc.kv_layout == FA_KV_PAGED || (desc.inputs & FA_INPUT_CU_SEQLENS_K) != 0;
  for (const fa_tensor_desc* tensor : {&desc.bias, &desc.mask}) {
    if (is_table && tensor->dtype != FA_DTYPE_NONE && tensor->rank > 0 && tensor->shape[tensor->rank - 1] > 1) {
      desc.max_s_k = tensor->shape[tensor->rank - 1];
    }
  }
}

std::vector<int64_t> output_shape(const fa_attention_desc& desc) {
  std::vector<int64_t> shape(desc.q.shape, desc.q.shape + desc.q.rank);
  if (desc.v.rank > 0) shape.back() = desc.v.shape[desc.v.rank - 1];
  return shape;
}

std::vector<int64_t> lse_shape(const fa_attention_desc& desc) {
  if (desc.q.rank == 4) return {desc.q.shape[0], desc.q.shape[2], desc.q.shape[1]};
  if (desc.q.rank == 3) return {desc.q.shape[1], desc.q.shape[0]};
  throw FileError("--q has shape " + shape_text({desc.q.shape, desc.q.shape + desc.q.rank}) +
                  " but must be [b, s_q, h_q, d], or [total_q, h_q, d] with --cu-seqlens-q");
}

// Rows beyond a request's length are not written and keep the result of a row without keys.
void make_outputs(const RunOptions& options, Job* job) {
  Array& o = job->make_output(output_shape(job->desc), element_of(job->desc.q.dtype), options.out);
  job->desc.o = describe(o, "the output");
  job->args.o = o.data();
  if (options.lse.empty() && options.dout.empty()) return;
  Array& lse = job->make_output(lse_shape(job->desc), Element::f32, options.lse);
  std::fill(lse.as<float>().begin(), lse.as<float>().end(), -std::numeric_limits<float>::infinity());
  job->desc.lse = describe(lse, "the log-sum-exp");
  job->args.lse = lse.as<float>().data();
}

}  // namespace

void run_files(const RunOptions& options) {
  check_usage(options);
  if (options.out.empty() && options.dout.empty()) throw UsageError("--out is missing; only with --dout it may be");
  Job job;
  apply_options(options, &job.desc);
  load_qkv(options, &job);
  check_packing(job.desc.q, "--q", options.cu_seqlens_q, "--cu-seqlens-q");
  check_packing(job.desc.k, "--k", options.cu_seqlens_k, "--cu-seqlens-k");
  load_lengths(options, &job);
  load_scores_inputs(options, &job);
  job.args.dropout_seed = options.seed.value_or(0);
  job.args.dropout_offset = options.offset.value_or(0);

  make_outputs(options, &job);
  if (!options.dout.empty()) add_backward(options, &job);
  if (options.threads) check_status(fa_set_num_threads(static_cast<int32_t>(*options.threads)));
  run_job(&job);
  write_results(job);
}

}  // namespace flash_attn::tool
