// See tuning.h.
#include "cuda/entries/tuning.h"

#include "cuda/entries/forward_choices.h"

#include <algorithm>

namespace flash_attn::cuda {
namespace {

constexpr int64_t kTileRows = 128, kBlockKeys = 128;
constexpr int64_t kFewBlocks = 8, kSomeBlocks = 32;
constexpr int64_t kRoundsOfLightWork = 2;
constexpr int kDims[] = {64, 96, 128, 192, 256};

int dim_class(int64_t d) {
  for (const int most : kDims)
    if (d <= most) return most;
  return kDims[4];
}

MaskClass mask_class(const Problem& p) {
  if (p.window_left >= 0 || p.chunk > 0) return MaskClass::interval;
  const bool may_be_causal = p.mask_kind == MaskKind::causal || p.mask_kind == MaskKind::per_request;
  return may_be_causal || p.window_right >= 0 ? MaskClass::right : MaskClass::none;
}

FeatureClass feature_class(const Problem& p) {
  if (p.has_bias || p.has_mask || p.has_tree_mask || p.dropout_p > 0) return FeatureClass::lookups;
  if (p.softcap > 0 || p.has_alibi || !(p.scale > 0)) return FeatureClass::scores;
  if (p.kv_layout != KvLayout::contiguous) return FeatureClass::paged;
  return p.packed_q || p.packed_k || p.inputs != 0 ? FeatureClass::lengths : FeatureClass::plain;
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Keys that a tile of rows can see at most.
int64_t reachable_keys(const Problem& p) {
  int64_t keys = p.max_s_k;
  if (p.window_left >= 0 && (p.window_right >= 0 || p.mask_kind == MaskKind::causal))
    keys = std::min(keys, p.window_left + std::max<int64_t>(p.window_right, 0) + kTileRows + p.first_keys);
  if (p.chunk > 0) keys = std::min(keys, p.chunk + kTileRows);
  return keys;
}

}  // namespace

ProblemClass classify(const Problem& p, const DeviceInfo& device) {
  ProblemClass found;
  found.capability = device.compute_capability;
  found.d = dim_class(p.d);
  found.d_v = dim_class(p.d_v);
  found.mask = mask_class(p);
  found.features = feature_class(p);
  if ((p.flags & FA_FLAG_BATCH_INVARIANT) != 0) return found;
  const int64_t multiprocessors = multiprocessors_of(p, device);
  const int64_t tiles = divide_up(p.max_s_q, kTileRows) * p.h_q * p.b, blocks = divide_up(reachable_keys(p), kBlockKeys);
  found.rows = p.max_s_q <= kTileRows ? RowClass::low : RowClass::tall;
  found.work = tiles < kRoundsOfLightWork * multiprocessors ? WorkClass::light : WorkClass::full;
  found.keys = blocks <= kFewBlocks ? KeyClass::few : blocks <= kSomeBlocks ? KeyClass::some : KeyClass::many;
  return found;
}

std::string class_text(const ProblemClass& c) {
  constexpr const char* kMasks[] = {"none", "right", "interval"};
  constexpr const char* kFeatures[] = {"plain", "lengths", "paged", "scores", "lookups"};
  constexpr const char* kRows[] = {"low", "tall"};
  constexpr const char* kWork[] = {"light", "full"};
  constexpr const char* kKeys[] = {"few", "some", "many"};
  return format_text("%d, %d, %d, %s, %s, %s, %s, %s", c.capability, c.d, c.d_v, kMasks[static_cast<int>(c.mask)],
                     kFeatures[static_cast<int>(c.features)], kRows[static_cast<int>(c.rows)], kWork[static_cast<int>(c.work)],
                     kKeys[static_cast<int>(c.keys)]);
}

std::string_view kernel_name_of(const std::string& kernel) { return std::string_view(kernel).substr(0, kernel.find(':')); }

std::string_view forced_fields_of(const std::string& kernel) {
  const size_t colon = kernel.find(':');
  return colon == std::string::npos ? std::string_view() : std::string_view(kernel).substr(colon + 1);
}

namespace detail {

bool take_field(std::string_view* list, std::string_view* name, long long* number) {
  const size_t comma = list->find(',');
  const std::string_view field = list->substr(0, comma);
  list->remove_prefix(comma == std::string_view::npos ? list->size() : comma + 1);
  const size_t equals = field.find('=');
  if (equals == std::string_view::npos) return false;
  *name = field.substr(0, equals);
  const char* const end = field.data() + field.size();
  const std::from_chars_result result = std::from_chars(field.data() + equals + 1, end, *number);
  return result.ec == std::errc() && result.ptr == end && *number >= 0 && *number <= 1 << 20;
}

Status refuse_field(const std::string& kernel, std::initializer_list<const char*> choices) {
  std::string names;
  for (const char* choice : choices) names += (names.empty() ? "" : ", ") + std::string(choice);
  return invalid("kernel is \"%s\" but behind the name may only stand name=number, separated by commas, of: %s", kernel.c_str(),
                 names.c_str());
}

}  // namespace detail

}  // namespace flash_attn::cuda
