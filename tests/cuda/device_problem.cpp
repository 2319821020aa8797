// See device_problem.h.
#include "tests/cuda/device_problem.h"

#include <cstring>

namespace flash_attn::test {
namespace {

size_t element_of(const TestProblem& problem, const void* base) {
  const fa_attention_args& args = problem.args();
  if (base == args.o) return static_cast<size_t>(element_bytes(problem.desc().o.dtype));
  if (base == args.tree_mask || base == args.dropout_seed_ptr) return 8;
  if (base == args.mask) return 1;
  if (base == args.bias) return static_cast<size_t>(element_bytes(problem.desc().bias.dtype));
  if (base == args.q || base == args.k || base == args.v) return static_cast<size_t>(element_bytes(problem.dtype()));
  if (problem.desc().kv_layout == FA_KV_POINTERS) {
    for (int64_t r = 0; r < problem.spec().batch; ++r)
      if (base == args.k_ptrs[r] || base == args.v_ptrs[r]) return static_cast<size_t>(element_bytes(problem.dtype()));
  }
  return 4;
}

}  // namespace

DeviceProblem::DeviceProblem(const TestProblem& problem, Placement placement, const std::string& kernel)
    : DeviceMemory(placement), desc_(problem.desc()), args_(problem.args()) {
  desc_.device_type = FA_DEVICE_CUDA;
  desc_.num_threads = 0;
  desc_.kernel = kernel.empty() ? forced_kernel() : kernel.c_str();
  for (const GuardedBuffer& buffer : problem.inputs()) place(buffer, element_of(problem, buffer.data()), false);
  place(problem.o_buffer(), element_of(problem, problem.args().o), true);
  place(problem.lse_buffer(), 4, true);
  const bool by_pointers = desc_.kv_layout == FA_KV_POINTERS;
  const auto requests = static_cast<size_t>(problem.spec().batch);
  const size_t lists = by_pointers ? book(2 * requests * 8, 0) : 0;
  allocate();
  if (by_pointers) move_lists(lists, requests);
  move_all();
  promise();
  fill();
  upload();
}

void DeviceProblem::move_lists(size_t at, size_t requests) {
  for (size_t n = 0; n < 2 * requests; ++n) {
    const void* base = n < requests ? args_.k_ptrs[n] : args_.v_ptrs[n - requests];
    move(base);
    std::memcpy(image(at + n * 8), &base, 8);
  }
  args_.k_ptrs = reinterpret_cast<const void* const*>(memory() + at);
  args_.v_ptrs = args_.k_ptrs + requests;
}

void DeviceProblem::move_all() {
  move(args_.q);
  move(args_.k);
  move(args_.v);
  move(args_.o);
  move(args_.lse);
  move(args_.cu_seqlens_q);
  move(args_.cu_seqlens_k);
  move(args_.seqused_q);
  move(args_.seqused_k);
  move(args_.leftpad_k);
  move(args_.cache_batch_idx);
  move(args_.block_table);
  move(args_.mask_kinds);
  move(args_.diagonal_offsets);
  move(args_.tree_sizes);
  move(args_.alibi);
  move(args_.bias);
  move(args_.mask);
  move(args_.tree_mask);
  move(args_.sink);
  move(args_.dropout_seed_ptr);
  move(args_.dropout_offset_ptr);
}

void DeviceProblem::promise() {
  desc_.q.alignment = alignment_of(args_.q);
  desc_.o.alignment = alignment_of(args_.o);
  if (desc_.kv_layout == FA_KV_POINTERS) {
    if (placement() == Placement::unaligned) desc_.k.alignment = desc_.v.alignment = desc_.q.dtype == FA_DTYPE_F32 ? 4 : 2;
    return;
  }
  desc_.k.alignment = alignment_of(args_.k);
  desc_.v.alignment = alignment_of(args_.v);
}

}  // namespace flash_attn::test
