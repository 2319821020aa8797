// See run_job.h.
#include "run_job.h"

#include "errors.h"
#include "files.h"
#include "npy.h"

namespace flash_attn::tool {
namespace {

using Copies = std::vector<std::pair<const Array*, void*>>;

// The pointer that an argument gets on the GPU: that of the array it points to.
template <typename T>
void move(const Copies& copies, T** pointer) {
  for (const auto& [array, device] : copies)
    if (reinterpret_cast<const void*>(*pointer) == array->data()) *pointer = static_cast<T*>(device);
}

void move_all(const Copies& copies, fa_attention_args* args) {
  for (const void** pointer : {&args->q, &args->k, &args->v, &args->bias, &args->dout}) move(copies, pointer);
  for (const int32_t** pointer : {&args->cu_seqlens_q, &args->cu_seqlens_k, &args->seqused_q, &args->seqused_k, &args->leftpad_k,
                                  &args->cache_batch_idx, &args->block_table, &args->tree_sizes})
    move(copies, pointer);
  for (const float** pointer : {&args->alibi, &args->sink, &args->dlse}) move(copies, pointer);
  for (void** pointer : {&args->o, &args->dq, &args->dk, &args->dv}) move(copies, pointer);
  for (float** pointer : {&args->lse, &args->dbias, &args->dsink, &args->dslopes}) move(copies, pointer);
  move(copies, &args->mask);
  move(copies, &args->tree_mask);
}

void run_on_gpu(Job* job) {
  Gpu gpu(job->desc.device_index);
  check_status(fa_supports(&job->desc));
  if (job->has_backward) check_status(fa_supports(&job->backward_desc));
  Copies copies;
  for (const auto& array : job->arrays) copies.emplace_back(array.get(), gpu.copy_in(array->data(), array->bytes()));
  fa_attention_args args = job->args;
  move_all(copies, &args);
  Attention(job->desc, &gpu).run(args);
  if (job->has_backward) {
    args = job->backward_args;
    move_all(copies, &args);
    Attention(job->backward_desc, &gpu).run(args);
  }
  for (const auto& [array, device] : copies)
    for (Array* output : job->outputs)
      if (output == array) gpu.copy_out(output->data(), device, output->bytes());
}

}  // namespace

const Array& Job::keep(Array array) {
  arrays.push_back(std::make_unique<Array>(std::move(array)));
  return *arrays.back();
}

Array& Job::make_output(std::vector<int64_t> shape, Element element, const std::string& path) {
  arrays.push_back(std::make_unique<Array>(element, std::move(shape)));
  outputs.push_back(arrays.back().get());
  if (!path.empty()) files.emplace_back(path, arrays.back().get());
  return *arrays.back();
}

fa_tensor_desc describe(const Array& array, const char* argument) {
  if (array.rank() < 1 || array.rank() > FA_MAX_RANK) {
    throw FileError(std::string(argument) + " has shape " + shape_text(array.shape()) + " but must have 1 to 4 dimensions");
  }
  return dense_tensor(dtype_of(array.element()), array.shape());
}

void run_job(Job* job) {
  if (job->desc.device_type != FA_DEVICE_CPU) return run_on_gpu(job);
  check_status(fa_supports(&job->desc));
  if (job->has_backward) check_status(fa_supports(&job->backward_desc));
  Attention(job->desc).run(job->args);
  if (job->has_backward) Attention(job->backward_desc).run(job->backward_args);
}

void write_results(const Job& job) {
  std::vector<std::pair<std::string, std::vector<std::byte>>> results;
  for (const auto& [path, array] : job.files) results.emplace_back(path, format_npy(to_float(*array, Element::f32, "the output")));
  write_files(results);
}

}  // namespace flash_attn::tool
