// libFuzzer target: any bytes as an fa_attention_desc. The host-only functions must answer with a status and agree with each other:
// what is invalid is neither supported nor planned, what is supported is planned, and its workspace stays within the bound.
#include "flash_attn/flash_attn.h"

#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

void expect(bool condition) {
  if (!condition) std::abort();
}

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  void copy(void* target, size_t bytes) {
    const size_t count = bytes < size_ ? bytes : size_;
    if (count > 0) std::memcpy(target, data_, count);
    data_ += count;
    size_ -= count;
  }
  uint8_t byte() {
    uint8_t value = 0;
    copy(&value, 1);
    return value;
  }
  int64_t below(int64_t count) { return byte() % count; }
  bool empty() const { return size_ == 0; }

 private:
  const uint8_t* data_;
  size_t size_;
};

fa_tensor_desc dense(fa_dtype dtype, int32_t rank, const int64_t* shape) {
  fa_tensor_desc tensor{};
  tensor.dtype = dtype;
  tensor.rank = rank;
  int64_t stride = 1;
  for (int32_t i = rank - 1; i >= 0; --i) {
    tensor.shape[i] = shape[i];
    tensor.stride[i] = stride;
    stride *= shape[i] > 0 ? shape[i] : 1;
  }
  return tensor;
}

// The backward of a forward description, with some of its optional gradients.
void make_backward(Bytes* bytes, fa_attention_desc* desc) {
  const uint8_t choice = bytes->byte();
  const int64_t lse[] = {desc->q.shape[0], desc->q.shape[2], desc->q.shape[1]};
  desc->direction = FA_BACKWARD;
  desc->num_splits = 0;
  desc->lse = dense(FA_DTYPE_F32, 3, lse);
  desc->dout = desc->o;
  desc->dq = desc->q;
  desc->dk = desc->k;
  desc->dv = desc->v;
  if (choice & 1) desc->dlse = desc->lse;
  if ((choice & 2) && desc->bias.dtype != FA_DTYPE_NONE) {
    desc->dbias = desc->bias;
    desc->dbias.dtype = FA_DTYPE_F32;
  }
  if ((choice & 4) && desc->sink.dtype != FA_DTYPE_NONE) desc->dsink = desc->sink;
  if (choice & 8) desc->dq.dtype = desc->dk.dtype = FA_DTYPE_F32;
  if (choice & 16) desc->alibi = desc->dslopes = dense(FA_DTYPE_F32, 1, &lse[1]);
  if (choice & 32) desc->flags |= FA_FLAG_ACCUMULATE_DQ | FA_FLAG_DETERMINISTIC;
}

// A likely valid problem, so that the fuzzer starts beyond the first checks.
void make_plausible(Bytes* bytes, fa_attention_desc* desc) {
  const auto dtype = static_cast<fa_dtype>(1 + bytes->below(3));
  const int64_t b = 1 + bytes->below(4), s_q = bytes->below(70), s_k = 3 * bytes->below(100), d = 1 + bytes->below(140);
  const int64_t h_k = 1 + bytes->below(3), h_q = h_k * (1 + bytes->below(5));
  const int64_t q[] = {b, s_q, h_q, d}, k[] = {b, s_k, h_k, d}, scores[] = {b, 1, s_q, s_k}, lse[] = {b, h_q, s_q};
  desc->q = desc->o = dense(dtype, 4, q);
  desc->k = desc->v = dense(dtype, 4, k);
  const uint8_t features = bytes->byte();
  if (features & 1) desc->mask_kind = FA_MASK_CAUSAL;
  if (features & 2) desc->window_left = bytes->below(40);
  if (features & 4) desc->bias = dense(dtype, 4, scores);
  if (features & 8) desc->lse = dense(FA_DTYPE_F32, 3, lse);
  if (features & 16) desc->sink = dense(FA_DTYPE_F32, 1, &h_q);
  if (features & 32) desc->softcap = 30.0f;
  if (features & 64) desc->num_splits = static_cast<int32_t>(bytes->below(9));
  if (features & 128) {
    const int64_t table[] = {b, 1 + s_k / 16}, pages[] = {b * (1 + s_k / 16), 16, h_k, d};
    desc->kv_layout = FA_KV_PAGED;
    desc->k = desc->v = dense(dtype, 4, pages);
    desc->block_table = dense(FA_DTYPE_I32, 2, table);
    desc->inputs |= FA_INPUT_SEQUSED_K;
  }
}

// Overwrites a few places: 4-byte words anywhere in the struct but its size and its pointers.
void scribble(Bytes* bytes, fa_attention_desc* desc) {
  auto* words = reinterpret_cast<unsigned char*>(desc);
  while (!bytes->empty()) {
    uint16_t place = 0;
    uint32_t value = 0;
    bytes->copy(&place, sizeof place);
    bytes->copy(&value, sizeof value);
    const size_t words_of_data = offsetof(fa_attention_desc, kernel) / 4 - 1;
    std::memcpy(words + 4 + 4 * (place % words_of_data), &value, sizeof value);
  }
}

void set_names(uint8_t choice, fa_attention_desc* desc) {
  desc->kernel = (choice & 4) ? fa_kernel_name(FA_DEVICE_CPU, choice & 3) : nullptr;
  desc->isa = (choice & 8) ? fa_cpu_isa_name(choice & 3) : nullptr;
  desc->score_mod = (choice & 48) == 48 ? "score" : nullptr;
  if ((choice & 64) && (choice & 4)) desc->kernel = "no such kernel";
}

// A caller's struct is as large as it says: the copy is exactly that large, so that reading beyond it is found.
class SizedCopy {
 public:
  SizedCopy(const fa_attention_desc& desc, Bytes* tail) : memory_(desc.struct_size % 8192 < 4 ? 4 : desc.struct_size % 8192) {
    const size_t known = memory_.size() < sizeof desc ? memory_.size() : sizeof desc;
    std::memcpy(memory_.data(), &desc, known);
    tail->copy(memory_.data() + known, memory_.size() - known);
    const auto size = static_cast<uint32_t>(memory_.size());
    std::memcpy(memory_.data(), &size, sizeof size);
  }
  const fa_attention_desc& get() const { return *reinterpret_cast<const fa_attention_desc*>(memory_.data()); }

 private:
  std::vector<unsigned char> memory_;
};

void check(const fa_attention_desc& desc) {
  const fa_status valid = fa_validate(&desc);
  if (valid != FA_STATUS_OK) expect(std::strlen(fa_last_error()) > 0);
  const fa_status supported = fa_supports(&desc);
  if (valid != FA_STATUS_OK) expect(supported == valid);
  if (supported != FA_STATUS_OK) expect(std::strlen(fa_last_error()) > 0);
  fa_plan* plan = nullptr;
  const fa_status planned = fa_plan_create(&desc, &plan);
  expect(planned == supported && (plan != nullptr) == (planned == FA_STATUS_OK));
  size_t bound_scratch = 0, bound_state = 0, scratch = 0, state = 0;
  const fa_status bound = fa_workspace_bound(&desc, &bound_scratch, &bound_state);
  if (plan != nullptr) {
    expect(fa_plan_workspace(plan, &scratch, &state) == FA_STATUS_OK);
    expect(bound == FA_STATUS_OK && scratch <= bound_scratch && state <= bound_state);
    expect(fa_plan_kernel(plan) != nullptr);
  }
  fa_plan_destroy(plan);
  char text[64];
  size_t length = 0;
  if (fa_explain(&desc, text, sizeof text, &length) == FA_STATUS_OK) expect(std::strlen(text) == (length < 63 ? length : 63));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  fa_attention_desc desc;
  expect(fa_attention_desc_init(&desc) == FA_STATUS_OK);
  const uint8_t mode = bytes.byte(), names = bytes.byte();
  if (mode % 4 == 0) {
    bytes.copy(&desc, sizeof desc);
    if (mode % 8 == 0) desc.struct_size = sizeof desc;
  } else {
    make_plausible(&bytes, &desc);
    if (mode & 128) make_backward(&bytes, &desc);
    scribble(&bytes, &desc);
  }
  set_names(names, &desc);
  check(SizedCopy(desc, &bytes).get());
  return 0;
}
