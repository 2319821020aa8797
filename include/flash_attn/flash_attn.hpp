// flash_attn.hpp: the C++17 interface of flash-attn-lib, header-only over flash_attn.h. It adds ownership (Plan, HostWorkspace),
// defaults (Desc, Args), calls made of tensors (Tensor, Options, Call) and exceptions thrown on the caller's side of the ABI; it
// holds no logic of its own. What a field means is said in flash_attn.h.
#ifndef FLASH_ATTN_FLASH_ATTN_HPP
#define FLASH_ATTN_FLASH_ATTN_HPP

#include "flash_attn/flash_attn.h"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace flash_attn {
// The inline namespace keeps these names apart from the library's own when it is linked statically.
inline namespace v0 {

// A failed call: its status, and fa_last_error() as what().
class Error : public std::runtime_error {
 public:
  Error(fa_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  fa_status status() const noexcept { return status_; }

 private:
  fa_status status_;
};

// Throws Error unless the status is FA_STATUS_OK.
inline void check(fa_status status) {
  if (status == FA_STATUS_OK) return;
  const std::string message = fa_last_error();
  throw Error(status, message.empty() ? fa_status_name(status) : message);
}

// The description of a tensor of 1 to 4 dimensions. Strides count elements; without them there are no gaps.
inline fa_tensor_desc tensor(fa_dtype dtype, const int64_t* shape, const int64_t* strides, size_t rank) {
  if (rank < 1 || rank > FA_MAX_RANK) {
    throw Error(FA_STATUS_INVALID_ARGUMENT, "a tensor has " + std::to_string(rank) + " dimensions but must have 1 to 4");
  }
  fa_tensor_desc result = {};
  result.dtype = dtype;
  result.rank = static_cast<int32_t>(rank);
  uint64_t compact = 1;  // unsigned: an absurd shape may wrap here and is refused by the library
  for (size_t axis = rank; axis-- > 0;) {
    result.shape[axis] = shape[axis];
    result.stride[axis] = strides != nullptr ? strides[axis] : static_cast<int64_t>(compact);
    compact *= static_cast<uint64_t>(shape[axis]);
  }
  return result;
}

inline fa_tensor_desc tensor(fa_dtype dtype, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> strides) {
  if (strides.size() != shape.size()) {
    throw Error(FA_STATUS_INVALID_ARGUMENT, std::to_string(shape.size()) + " extents but " + std::to_string(strides.size()) +
                                                " strides; each dimension needs one of both");
  }
  return tensor(dtype, shape.begin(), strides.begin(), shape.size());
}

inline fa_tensor_desc tensor(fa_dtype dtype, std::initializer_list<int64_t> shape) {
  return tensor(dtype, shape.begin(), nullptr, shape.size());
}

// The element type that a C++ type stands for. 16-bit and 8-bit floating point types have none: name their dtype.
template <typename T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
  static constexpr fa_dtype value = FA_DTYPE_F32;
};
template <>
struct DtypeOf<int32_t> {
  static constexpr fa_dtype value = FA_DTYPE_I32;
};
template <>
struct DtypeOf<uint64_t> {
  static constexpr fa_dtype value = FA_DTYPE_U64;
};
template <>
struct DtypeOf<bool> {
  static constexpr fa_dtype value = FA_DTYPE_BOOL;
};
template <>
struct DtypeOf<uint8_t> {
  static constexpr fa_dtype value = FA_DTYPE_BOOL;
};

// A tensor as its owner has it: where the data lies and what it looks like. A view: it owns nothing, and a default one is absent.
struct Tensor {
  void* data = nullptr;
  fa_tensor_desc desc = {};
  fa_device_type device_type = FA_DEVICE_CPU;
  int32_t device_index = -1;

  Tensor() = default;
  Tensor(void* base, const fa_tensor_desc& description) : data(base), desc(description) {}
  // The library writes to outputs only, so that const data may be an input.
  Tensor(const void* base, const fa_tensor_desc& description) : Tensor(const_cast<void*>(base), description) {}
  template <typename T>
  Tensor(T* base, std::initializer_list<int64_t> shape) : Tensor(base, tensor(DtypeOf<std::remove_const_t<T>>::value, shape)) {}
  template <typename T>
  Tensor(T* base, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> strides)
      : Tensor(base, tensor(DtypeOf<std::remove_const_t<T>>::value, shape, strides)) {}

  bool is_given() const noexcept { return desc.dtype != FA_DTYPE_NONE; }
};

// A description with its defaults filled in.
struct Desc : fa_attention_desc {
  Desc() : fa_attention_desc() { check(fa_attention_desc_init(this)); }
};

// The pointers of a run, all null.
struct Args : fa_attention_args {
  Args() : fa_attention_args() { check(fa_attention_args_init(this)); }
};

// What a call may want beyond q, k, v and o. Fields mean what those of fa_attention_desc and fa_attention_args of the same name do;
// a pointer that is null and a tensor that is not given are absent.
struct Options {
  bool causal = false;
  fa_diagonal diagonal = FA_DIAGONAL_BOTTOM_RIGHT;
  int64_t diagonal_offset = 0;
  const int32_t* diagonal_offsets = nullptr;
  int64_t window_left = -1;
  int64_t window_right = -1;
  int64_t first_keys = 0;
  int64_t chunk = 0;

  float scale = std::numeric_limits<float>::quiet_NaN();
  float softcap = 0;
  float dropout_p = 0;
  uint64_t dropout_seed = 0;
  uint64_t dropout_offset = 0;

  Tensor lse;
  Tensor alibi;
  Tensor bias;
  Tensor mask;
  Tensor sink;
  Tensor block_table;  // makes k and v paged
  Tensor tree_mask;    // makes the mask a tree mask
  const int32_t* tree_sizes = nullptr;
  const int32_t* mask_kinds = nullptr;  // makes it one per request

  int64_t batch = 0;  // of a packed q
  int64_t max_s_q = 0;
  int64_t max_s_k = 0;
  const int32_t* cu_seqlens_q = nullptr;
  const int32_t* cu_seqlens_k = nullptr;
  const int32_t* seqused_q = nullptr;
  const int32_t* seqused_k = nullptr;
  const int32_t* leftpad_k = nullptr;
  const int32_t* cache_batch_idx = nullptr;

  uint32_t flags = 0;
  int32_t num_threads = 0;
  int32_t num_splits = 0;
  int64_t split_size = 0;
  const char* kernel = nullptr;
  const char* isa = nullptr;
};

// Of a backward: the gradient of o comes in, those of q, k and v go out; the others as they are given.
struct Gradients {
  Tensor dout;
  Tensor dq;
  Tensor dk;
  Tensor dv;
  Tensor dlse;
  Tensor dbias;
  Tensor dsink;
  Tensor dslopes;
};

// Both halves of a call, description and pointers, from tensors that carry both.
class Call {
 public:
  Call(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Options& options = Options()) {
    desc.device_type = q.device_type;
    desc.device_index = q.device_index;
    args.q = place(q, &desc.q);
    args.k = place(k, &desc.k);
    args.v = place(v, &desc.v);
    args.o = place(o, &desc.o);
    set_mask(options);
    set_lengths(options);
    args.lse = static_cast<float*>(place(options.lse, &desc.lse));
    args.alibi = static_cast<const float*>(place(options.alibi, &desc.alibi));
    args.bias = place(options.bias, &desc.bias);
    args.mask = static_cast<const uint8_t*>(place(options.mask, &desc.mask));
    args.sink = static_cast<const float*>(place(options.sink, &desc.sink));
    desc.scale = options.scale;
    desc.softcap = options.softcap;
    desc.dropout_p = options.dropout_p;
    args.dropout_seed = options.dropout_seed;
    args.dropout_offset = options.dropout_offset;
    desc.flags = options.flags;
    desc.num_threads = options.num_threads;
    desc.num_splits = options.num_splits;
    desc.split_size = options.split_size;
    desc.kernel = options.kernel;
    desc.isa = options.isa;
  }

  // The backward of such a call: o and options.lse are what it wrote.
  Call(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Gradients& gradients, const Options& options)
      : Call(q, k, v, o, options) {
    desc.direction = FA_BACKWARD;
    args.dout = place(gradients.dout, &desc.dout);
    args.dq = place(gradients.dq, &desc.dq);
    args.dk = place(gradients.dk, &desc.dk);
    args.dv = place(gradients.dv, &desc.dv);
    args.dlse = static_cast<const float*>(place(gradients.dlse, &desc.dlse));
    args.dbias = static_cast<float*>(place(gradients.dbias, &desc.dbias));
    args.dsink = static_cast<float*>(place(gradients.dsink, &desc.dsink));
    args.dslopes = static_cast<float*>(place(gradients.dslopes, &desc.dslopes));
  }

  Desc desc;
  Args args;

 private:
  void* place(const Tensor& tensor, fa_tensor_desc* target) {
    if (tensor.is_given() && tensor.device_type != desc.device_type) {
      throw Error(FA_STATUS_INVALID_ARGUMENT, "the tensors of a call lie on different devices");
    }
    *target = tensor.desc;
    return tensor.data;
  }

  const int32_t* place(const int32_t* vector, uint32_t bit) {
    if (vector != nullptr) desc.inputs |= bit;
    return vector;
  }

  void set_mask(const Options& options) {
    desc.mask_kind = options.causal ? FA_MASK_CAUSAL : FA_MASK_FULL;
    if (options.tree_mask.is_given()) desc.mask_kind = FA_MASK_TREE;
    if (options.mask_kinds != nullptr) desc.mask_kind = FA_MASK_PER_REQUEST;
    if (options.causal && desc.mask_kind != FA_MASK_CAUSAL) {
      throw Error(FA_STATUS_INVALID_ARGUMENT, "causal is set together with tree_mask or mask_kinds, which say it themselves");
    }
    args.tree_mask = static_cast<const uint64_t*>(place(options.tree_mask, &desc.tree_mask));
    args.tree_sizes = options.tree_sizes;
    args.mask_kinds = options.mask_kinds;
    desc.diagonal = options.diagonal;
    desc.diagonal_offset = options.diagonal_offset;
    args.diagonal_offsets = options.diagonal_offsets;
    desc.window_left = options.window_left;
    desc.window_right = options.window_right;
    desc.first_keys = options.first_keys;
    desc.chunk = options.chunk;
  }

  void set_lengths(const Options& options) {
    desc.batch = options.batch;
    desc.max_s_q = options.max_s_q;
    desc.max_s_k = options.max_s_k;
    args.cu_seqlens_q = place(options.cu_seqlens_q, FA_INPUT_CU_SEQLENS_Q);
    args.cu_seqlens_k = place(options.cu_seqlens_k, FA_INPUT_CU_SEQLENS_K);
    args.seqused_q = place(options.seqused_q, FA_INPUT_SEQUSED_Q);
    args.seqused_k = place(options.seqused_k, FA_INPUT_SEQUSED_K);
    args.leftpad_k = place(options.leftpad_k, FA_INPUT_LEFTPAD_K);
    args.cache_batch_idx = place(options.cache_batch_idx, FA_INPUT_CACHE_BATCH_IDX);
    if (options.block_table.is_given()) desc.kv_layout = FA_KV_PAGED;
    args.block_table = static_cast<const int32_t*>(place(options.block_table, &desc.block_table));
  }
};

// A plan and its lifetime. run() may be called from several threads at once.
class Plan {
 public:
  explicit Plan(const fa_attention_desc& desc) {
    fa_plan* plan = nullptr;
    check(fa_plan_create(&desc, &plan));
    plan_.reset(plan);
  }

  const char* kernel() const { return fa_plan_kernel(plan_.get()); }

  size_t scratch_bytes() const { return sizes().scratch; }
  size_t state_bytes() const { return sizes().state; }

  void init_state(void* state, size_t bytes, void* stream = nullptr) const {
    check(fa_state_init(plan_.get(), state, bytes, stream));
  }

  void prepare(void* context = nullptr) const { check(fa_prepare(plan_.get(), context)); }

  void run(const fa_attention_args& args, const fa_workspace* workspace = nullptr, void* stream = nullptr,
           uint32_t flags = 0) const {
    check(fa_run(plan_.get(), &args, workspace, stream, flags));
  }

  const fa_plan* get() const noexcept { return plan_.get(); }

 private:
  struct Sizes {
    size_t scratch = 0;
    size_t state = 0;
  };
  struct Destroy {
    void operator()(fa_plan* plan) const noexcept { fa_plan_destroy(plan); }
  };

  Sizes sizes() const {
    Sizes sizes;
    check(fa_plan_workspace(plan_.get(), &sizes.scratch, &sizes.state));
    return sizes;
  }

  std::unique_ptr<fa_plan, Destroy> plan_;
};

// Workspace in host memory for one run at a time of a plan.
class HostWorkspace {
 public:
  explicit HostWorkspace(const Plan& plan) : scratch_(allocate(plan.scratch_bytes())), state_(allocate(plan.state_bytes())) {
    check(fa_workspace_init(&workspace_));
    workspace_.scratch = scratch_.get();
    workspace_.scratch_bytes = plan.scratch_bytes();
    workspace_.state = state_.get();
    workspace_.state_bytes = plan.state_bytes();
    if (workspace_.state_bytes != 0) plan.init_state(workspace_.state, workspace_.state_bytes);
  }

  const fa_workspace* get() const noexcept { return &workspace_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(void* memory) const noexcept { ::operator delete(memory, kAlignment); }
  };
  using Memory = std::unique_ptr<void, Free>;

  static Memory allocate(size_t bytes) { return Memory(bytes == 0 ? nullptr : ::operator new(bytes, kAlignment)); }

  Memory scratch_;
  Memory state_;
  fa_workspace workspace_ = {};
};

// Plan and run in one call.
inline void attention(const fa_attention_desc& desc, const fa_attention_args& args, void* stream = nullptr) {
  check(fa_attention(&desc, &args, stream));
}

// Likewise from tensors: o (and options.lse) are written, all others read.
inline void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Options& options = Options(),
                      void* stream = nullptr) {
  const Call call(q, k, v, o, options);
  attention(call.desc, call.args, stream);
}

// Gradients of a call whose o and options.lse are given: dq, dk and dv are written, and what else `gradients` has.
inline void attention_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Gradients& gradients,
                               const Options& options, void* stream = nullptr) {
  const Call call(q, k, v, o, gradients, options);
  attention(call.desc, call.args, stream);
}

// What the planner makes of a description, also of one that is not served.
inline std::string explain(const fa_attention_desc& desc) {
  size_t length = 0;
  check(fa_explain(&desc, nullptr, 0, &length));
  std::string text(length + 1, '\0');
  check(fa_explain(&desc, &text[0], text.size(), &length));
  text.resize(length);
  return text;
}

// An archive of the GPU kernels that plans of these descriptions need on architectures ("sm_80,sm_90a"); see fa_archive_write.
// Returns how many kernels are in it.
inline int64_t write_archive(const std::string& path, const std::string& architectures,
                             const std::vector<fa_attention_desc>& descs) {
  std::vector<const fa_attention_desc*> pointers;
  for (const fa_attention_desc& desc : descs) pointers.push_back(&desc);
  int64_t kernels = 0;
  check(fa_archive_write(path.c_str(), architectures.c_str(), pointers.data(), static_cast<int64_t>(pointers.size()), 0, &kernels,
                         nullptr));
  return kernels;
}

// Look for kernels there first; empty: no longer.
inline void use_archive(const std::string& path) { check(fa_archive_use(path.empty() ? nullptr : path.c_str())); }

// Instruction sets of this CPU, best first.
inline std::vector<std::string> cpu_isas() {
  std::vector<std::string> names;
  for (int32_t index = 0; const char* name = fa_cpu_isa_name(index); ++index) names.emplace_back(name);
  return names;
}

}  // namespace v0
}  // namespace flash_attn

#endif  // FLASH_ATTN_FLASH_ATTN_HPP
