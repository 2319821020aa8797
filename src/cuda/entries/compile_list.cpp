// See compile_list.h. Problems are described as a caller would, planned for devices that need not be there, and the texts that the
// plans would compile are collected, each once.
#include "cuda/entries/compile_list.h"

#include "core/problem.h"
#include "cuda/device.h"
#include "cuda/entries/entry.h"
#include "cuda/entries/sm90_tuned.h"
#include "cuda/known_devices.h"

#include <set>
#include <string>
#include <utility>

namespace flash_attn::cuda {
namespace {

constexpr const KernelEntry* kEntries[] = {&kSm90ForwardEntry, &kSm80ForwardEntry, &kSm80BackwardEntry, &kSm90BackwardEntry};

constexpr int64_t kRows = 512, kKeys = 512, kHeads = 4;

fa_tensor_desc tensor(fa_dtype dtype, std::initializer_list<int64_t> shape) {
  fa_tensor_desc made = {};
  made.dtype = dtype;
  made.rank = static_cast<int32_t>(shape.size());
  int n = 0;
  for (const int64_t extent : shape) made.shape[n++] = extent;
  int64_t stride = 1;
  for (n = made.rank - 1; n >= 0; --n) {
    made.stride[n] = stride;
    stride *= made.shape[n];
  }
  return made;
}

fa_attention_desc plain(fa_dtype dtype, int64_t d, int64_t d_v) {
  fa_attention_desc desc = {};
  fa_attention_desc_init(&desc);
  desc.device_type = FA_DEVICE_CUDA;
  desc.q = tensor(dtype, {1, kRows, kHeads, d});
  desc.k = tensor(dtype, {1, kKeys, kHeads, d});
  desc.v = tensor(dtype, {1, kKeys, kHeads, d_v});
  desc.o = tensor(dtype, {1, kRows, kHeads, d_v});
  desc.lse = tensor(FA_DTYPE_F32, {1, kHeads, kRows});
  desc.num_splits = 1;
  return desc;
}

// The features that a kernel's code depends on, each of its own.
void causal(fa_attention_desc* desc) { desc->mask_kind = FA_MASK_CAUSAL; }
void window(fa_attention_desc* desc) { desc->window_left = desc->window_right = 100; }
void softcap(fa_attention_desc* desc) { desc->softcap = 30; }
void alibi(fa_attention_desc* desc) { desc->alibi = tensor(FA_DTYPE_F32, {kHeads}); }
void bias(fa_attention_desc* desc) { desc->bias = tensor(desc->q.dtype, {1, 1, kRows, kKeys}); }
void mask(fa_attention_desc* desc) { desc->mask = tensor(FA_DTYPE_BOOL, {1, 1, kRows, kKeys}); }
void dropout(fa_attention_desc* desc) { desc->dropout_p = 0.1f; }
void splits(fa_attention_desc* desc) { desc->num_splits = 2; }
void lengths(fa_attention_desc* desc) { desc->inputs |= FA_INPUT_SEQUSED_K; }
void output(fa_attention_desc* desc) { desc->o.dtype = desc->o.dtype == FA_DTYPE_F32 ? FA_DTYPE_BF16 : FA_DTYPE_F32; }
void few_rows(fa_attention_desc* desc) {
  for (fa_tensor_desc* made : {&desc->q, &desc->o, &desc->lse}) {
    const int row = made == &desc->lse ? 2 : 1;
    for (int n = 0; n < row; ++n) made->stride[n] = made->stride[n] / made->shape[row] * 8;
    made->shape[row] = 8;
  }
  for (fa_tensor_desc* made : {&desc->bias, &desc->mask})
    if (made->dtype != FA_DTYPE_NONE) made->shape[2] = 8;
}
void unaligned(fa_attention_desc* desc) {
  for (fa_tensor_desc* made : {&desc->q, &desc->k, &desc->v, &desc->o}) made->alignment = made->dtype == FA_DTYPE_F32 ? 4 : 2;
}
void paged(fa_attention_desc* desc) {
  desc->kv_layout = FA_KV_PAGED;
  desc->block_table = tensor(FA_DTYPE_I32, {1, kKeys / 16});
  for (fa_tensor_desc* made : {&desc->k, &desc->v}) *made = tensor(made->dtype, {kKeys / 16, 16, kHeads, made->shape[3]});
}
void tree(fa_attention_desc* desc) {
  desc->mask_kind = FA_MASK_TREE;
  desc->tree_mask = tensor(FA_DTYPE_U64, {1, desc->q.shape[1], 2});
}

// Last of all: the gradients of what is there.
void backward(fa_attention_desc* desc) {
  desc->direction = FA_BACKWARD;
  desc->num_splits = 0;
  desc->dout = desc->o;
  desc->dq = desc->q;
  desc->dk = desc->k;
  desc->dv = desc->v;
  if (desc->bias.dtype != FA_DTYPE_NONE) {
    desc->dbias = desc->bias;
    desc->dbias.dtype = FA_DTYPE_F32;
  }
  if (desc->alibi.dtype != FA_DTYPE_NONE) desc->dslopes = desc->alibi;
}

using Feature = void (*)(fa_attention_desc*);
// A tree stands in the place of causal; the number of rows comes first, as other tensors follow it.
constexpr Feature kFeatures[] = {few_rows, causal, window,  softcap, alibi, bias, mask,
                                 dropout,  splits, lengths, output,  paged, tree, unaligned};
constexpr unsigned kFeatureCount = sizeof(kFeatures) / sizeof(kFeatures[0]);

class Collector {
 public:
  explicit Collector(const DeviceInfo& device, std::set<std::string>* seen, std::vector<KernelRequest>* list)
      : device_(device), seen_(seen), list_(list) {}

  void add(const fa_attention_desc& desc) {
    Problem problem;
    if (!make_problem(desc, &problem).ok()) return;
    for (const KernelEntry* entry : kEntries)
      if (!is_own_only || entry->only_capability == device_.compute_capability) add_kernels(*entry, problem);
  }

  // Only kernels that no other architecture has.
  bool is_own_only = false;

  // The backward of a problem with all of these features.
  void add_backward(fa_attention_desc desc, std::initializer_list<Feature> features, uint32_t flags = 0, bool has_slopes = true) {
    for (const Feature feature : features) feature(&desc);
    backward(&desc);
    if (!has_slopes) desc.dslopes = {};
    desc.flags |= flags;
    add(desc);
  }

  void add_with(fa_attention_desc desc, unsigned features) {
    for (unsigned n = 0; n < kFeatureCount; ++n)
      if ((features >> n) & 1) kFeatures[n](&desc);
    add(desc);
  }

 private:
  void add_kernels(const KernelEntry& entry, const Problem& problem) {
    std::vector<KernelRequest> requests;
    if (!entry.kernels || !entry.supports(problem, device_).ok() || !entry.kernels(problem, device_, &requests).ok()) return;
    for (KernelRequest& request : requests)
      if (seen_->insert(request.arch + " " + request.name).second) list_->push_back(std::move(request));
  }

  DeviceInfo device_;
  std::set<std::string>* seen_;
  std::vector<KernelRequest>* list_;
};

// A row of the tuned table, on a problem of its class but for lengths: the schedule is forced.
void add_tuned_row(const Sm90TunedRow& row, Collector* collector) {
  constexpr unsigned kCausal = 1u << 1, kWindow = 1u << 2, kSoftcap = 1u << 3, kLengths = 1u << 9,
                     kPaged = 1u << 11;  // of kFeatures
  const ProblemClass& c = row.problem_class;
  const std::string kernel = forced_kernel_sm90(row.schedule);
  fa_attention_desc desc = plain(FA_DTYPE_BF16, c.d, c.d_v);
  desc.kernel = kernel.c_str();
  unsigned features = c.mask == MaskClass::none ? 0u : (c.mask == MaskClass::right ? kCausal : kWindow);
  if (c.features == FeatureClass::lengths) features |= kLengths;
  if (c.features == FeatureClass::paged) features |= kPaged;
  if (c.features == FeatureClass::scores) features |= kSoftcap;
  collector->add_with(desc, features);
}

// Schedules of long problems, which batch-invariant ones of any length have.
void add_long_rows(Collector* collector) {
  constexpr unsigned kCausal = 1u << 1, kWindow = 1u << 2, kSoftcap = 1u << 3, kAlibi = 1u << 4, kMask = 1u << 6,
                     kDropout = 1u << 7, kLengths = 1u << 9, kPaged = 1u << 11;  // of kFeatures
  for (const int64_t d : {64, 128}) {
    fa_attention_desc desc = plain(FA_DTYPE_BF16, d, d);
    desc.flags |= FA_FLAG_BATCH_INVARIANT;
    for (const unsigned features : {0u, kCausal, kCausal | kLengths, kWindow | kSoftcap, kCausal | kAlibi, kWindow | kAlibi,
                                    kWindow | kDropout, kMask, kCausal | kLengths | kPaged})
      collector->add_with(desc, features);
  }
}

// Heads that begin at no multiple of 16 bytes: of 2, 4 and 8 only, so that threads move rows.
void add_unaligned_rows(Collector* collector) {
  for (const int64_t d : {41, 100, 129}) collector->add_with(plain(FA_DTYPE_BF16, d, d), 0u);
  for (const int64_t d : {81, 250}) collector->add_with(plain(FA_DTYPE_BF16, d, d), 2u);
}

fa_attention_desc stacked(int64_t batch, int64_t rows, int64_t keys, int64_t d) {
  fa_attention_desc desc = plain(FA_DTYPE_BF16, d, d);
  desc.q = desc.o = tensor(FA_DTYPE_BF16, {batch, rows, 4 * kHeads, d});
  desc.k = desc.v = tensor(FA_DTYPE_BF16, {batch, keys, kHeads, d});
  desc.lse = tensor(FA_DTYPE_F32, {batch, 4 * kHeads, rows});
  desc.num_splits = 0;
  return desc;
}

void add_with_pages(fa_attention_desc desc, Collector* collector) {
  collector->add(desc);
  lengths(&desc);
  collector->add(desc);
  constexpr int64_t kPage = 64;
  const int64_t batch = desc.q.shape[0], pages = (desc.k.shape[1] + kPage - 1) / kPage, d = desc.k.shape[3];
  desc.kv_layout = FA_KV_PAGED;
  desc.block_table = tensor(FA_DTYPE_I32, {batch, pages});
  desc.k = desc.v = tensor(FA_DTYPE_BF16, {batch * pages, kPage, kHeads, d});
  collector->add(desc);
}

// Few query rows of stacked heads: decoding over many keys, which are split where requests are few, and very few keys, also of
// many rows and of rows that only threads can move.
void add_few_rows(Collector* collector) {
  for (const int64_t d : {64, 128, 256}) {
    for (const int64_t batch : {2, 40}) add_with_pages(stacked(batch, 1, 8192, d), collector);
    collector->add(stacked(8, 1, 8192, d));
    for (const auto& [rows, keys] : {std::pair<int64_t, int64_t>{8, 8192}, {64, 48}, {23, 48}}) {
      fa_attention_desc desc = stacked(8, rows, keys, d);
      causal(&desc);
      collector->add(desc);
    }
  }
  for (const int64_t d : {63, 64}) {
    for (const auto& [rows, keys] : {std::pair<int64_t, int64_t>{600, 18}, {1, 48}, {600, 48}}) {
      fa_attention_desc desc = stacked(8, rows, keys, d);
      add_with_pages(desc, collector);
      causal(&desc);
      collector->add(desc);
      desc.scale = -1;
      desc.q.stride[2] += 1;  // rows of q begin at any element
      desc.q.stride[1] += 4 * kHeads;
      desc.q.stride[0] += rows * 4 * kHeads;
      output(&desc);
      collector->add(desc);
    }
  }
}

// Sets of features in which every two of them are on together, off together, and either alone.
std::vector<unsigned> pairwise_sets() {
  constexpr unsigned kAll = (1u << kFeatureCount) - 1;
  std::vector<unsigned> sets = {0, kAll};
  for (unsigned bit = 1; bit < kFeatureCount; bit *= 2) {
    unsigned features = 0;
    for (unsigned n = 0; n < kFeatureCount; ++n) features |= (n & bit) ? 1u << n : 0u;
    sets.push_back(features);
    sets.push_back(kAll & ~features);
  }
  return sets;
}

void add_backward_rows(bool is_served_widely, Collector* collector) {
  for (const int64_t d : {64, 128, 256}) collector->add_backward(plain(FA_DTYPE_BF16, d, d), {causal});
  if (!is_served_widely) return;
  for (const int64_t d : {64, 128, 256}) {
    const fa_attention_desc desc = plain(FA_DTYPE_BF16, d, d);
    collector->add_backward(desc, {});
    collector->add_backward(desc, {causal, lengths});
    collector->add_backward(desc, {causal}, FA_FLAG_DETERMINISTIC);
    collector->add_backward(desc, {window, softcap, alibi, bias, mask, dropout, lengths, output, tree, unaligned});
  }
  for (const Feature feature : {window, softcap, alibi, bias, mask, dropout, tree, output, unaligned})
    collector->add_backward(plain(FA_DTYPE_F16, 128, 128), {feature});
  for (const int64_t d : {64, 96, 128, 192, 256}) {
    const fa_attention_desc desc = plain(FA_DTYPE_BF16, d, d);
    collector->add_backward(desc, {window, softcap});
    collector->add_backward(desc, {softcap, alibi}, 0, false);
    collector->add_backward(desc, {causal, softcap, alibi, lengths}, FA_FLAG_DETERMINISTIC, false);
    collector->add_backward(desc, {window, lengths}, FA_FLAG_DETERMINISTIC);
    collector->add_backward(desc, {causal, dropout});
    collector->add_backward(desc, {window, softcap, alibi, dropout, lengths}, FA_FLAG_DETERMINISTIC, false);
  }
  collector->add_backward(plain(FA_DTYPE_F16, 96, 96), {causal});
  collector->add_backward(plain(FA_DTYPE_F16, 48, 112), {window});
  collector->add_backward(plain(FA_DTYPE_F16, 72, 200), {causal});
  collector->add_backward(plain(FA_DTYPE_F16, 160, 160), {window});
  collector->add_backward(plain(FA_DTYPE_F16, 192, 128), {causal, alibi}, 0, false);
  collector->add_backward(plain(FA_DTYPE_F16, 224, 224), {causal, softcap, alibi, lengths}, FA_FLAG_DETERMINISTIC, false);
  for (const int64_t d : {64, 256}) collector->add_backward(plain(FA_DTYPE_F32, d, d), {causal, alibi}, FA_FLAG_DETERMINISTIC);
}

}  // namespace

std::vector<KernelRequest> compile_list() {
  std::vector<KernelRequest> list;
  std::set<std::string> seen;
  // One device of each kind of shared memory and instruction set.
  for (const char* arch : {"sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"}) {
    const DeviceInfo device = known_devices(arch).front();
    Collector collector(device, &seen, &list);
    const bool is_served_widely = device.compute_capability == 80 || device.compute_capability == 90;
    for (const int64_t d : {64, 96, 128, 192, 256}) {
      for (const unsigned features : {0u, 2u}) collector.add_with(plain(FA_DTYPE_BF16, d, d), features);
    }
    for (unsigned n = 0; n < kFeatureCount; ++n) collector.add_with(plain(FA_DTYPE_BF16, 128, 128), 1u << n);
    if (device.compute_capability == 90) {
      for (const Sm90TunedRow& row : tuned_rows_sm90()) add_tuned_row(row, &collector);
      add_long_rows(&collector);
      add_few_rows(&collector);
      add_unaligned_rows(&collector);
    }
    add_backward_rows(is_served_widely, &collector);
    if (!is_served_widely) continue;
    for (const int64_t d : {32, 40, 80, 112, 160, 224}) collector.add_with(plain(FA_DTYPE_F16, d, d), 2u);
    collector.add(plain(FA_DTYPE_BF16, 192, 128));
    collector.add(plain(FA_DTYPE_BF16, 72, 200));
    for (const int64_t d : {64, 128, 256}) collector.add_with(plain(FA_DTYPE_F32, d, d), 2u);
    // What kernels for all architectures make of features is the same on each.
    collector.is_own_only = device.compute_capability != 80;
    for (const unsigned features : pairwise_sets()) {
      collector.add_with(plain(FA_DTYPE_BF16, 128, 128), features);
      collector.add_with(plain(FA_DTYPE_F16, 256, 256), features);
      collector.add_with(plain(FA_DTYPE_F32, 64, 64), features);
    }
  }
  return list;
}

}  // namespace flash_attn::cuda
