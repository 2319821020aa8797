// First part of validation: enums, flags, input bits and numbers, as far as they can be judged without looking at a tensor.
#include "core/validation.h"

#include "core/tensor_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace flash_attn {
namespace {

constexpr uint32_t kKnownFlags = (FA_FLAG_DEBUG_CHECKS << 1) - 1;
constexpr uint32_t kKnownInputs = (FA_INPUT_DROPOUT_POINTERS << 1) - 1;
constexpr int kMaxSplits = 4096;
constexpr size_t kMaxNameBytes = 256;
constexpr size_t kMaxSourceBytes = 1 << 20;

Status check_enum(const char* name, int32_t value, int32_t last, const char* accepted) {
  if (value >= 0 && value <= last) return Status();
  return invalid("%s is %d but must be %s", name, value, accepted);
}

Status check_least(const char* name, int64_t value, int64_t least) {
  if (value >= least) return Status();
  return invalid("%s is %lld but must be %lld or more", name, static_cast<long long>(value), static_cast<long long>(least));
}

Status read_enums(const fa_attention_desc& desc, Problem* problem) {
  FA_TRY(check_enum("direction", desc.direction, FA_BACKWARD, "FA_FORWARD (0) or FA_BACKWARD (1)"));
  FA_TRY(check_enum("device_type", desc.device_type, FA_DEVICE_CUDA, "FA_DEVICE_CPU (0) or FA_DEVICE_CUDA (1)"));
  FA_TRY(check_enum("kv_layout", desc.kv_layout, FA_KV_POINTERS, "FA_KV_CONTIGUOUS (0), FA_KV_PAGED (1) or FA_KV_POINTERS (2)"));
  FA_TRY(check_enum("mask_kind", desc.mask_kind, FA_MASK_PER_REQUEST,
                    "FA_MASK_FULL (0), FA_MASK_CAUSAL (1), FA_MASK_TREE (2) or FA_MASK_PER_REQUEST (3)"));
  FA_TRY(check_enum("diagonal", desc.diagonal, FA_DIAGONAL_OFFSET_PER_REQUEST,
                    "FA_DIAGONAL_BOTTOM_RIGHT (0), FA_DIAGONAL_TOP_LEFT (1), FA_DIAGONAL_OFFSET (2) or "
                    "FA_DIAGONAL_OFFSET_PER_REQUEST (3)"));
  problem->direction = static_cast<Direction>(desc.direction);
  problem->device_type = desc.device_type;
  problem->kv_layout = static_cast<KvLayout>(desc.kv_layout);
  problem->mask_kind = static_cast<MaskKind>(desc.mask_kind);
  problem->diagonal = static_cast<Diagonal>(desc.diagonal);
  if (desc.device_index < -1 || (desc.device_type == FA_DEVICE_CPU && desc.device_index > 0)) {
    return invalid("device_index is %d but must be %s", desc.device_index,
                   desc.device_type == FA_DEVICE_CPU ? "-1 or 0 on a CPU" : "-1 or a CUDA ordinal");
  }
  problem->device_index = desc.device_index;
  return Status();
}

Status read_bits(const fa_attention_desc& desc, Problem* problem) {
  if ((desc.flags & ~kKnownFlags) != 0) {
    return invalid("flags is 0x%x with unknown bits 0x%x; known are FA_FLAG_*, 0x%x", desc.flags, desc.flags & ~kKnownFlags,
                   kKnownFlags);
  }
  if ((desc.inputs & ~kKnownInputs) != 0) {
    return invalid("inputs is 0x%x with unknown bits 0x%x; known are FA_INPUT_*, 0x%x", desc.inputs, desc.inputs & ~kKnownInputs,
                   kKnownInputs);
  }
  constexpr uint32_t kAccumulate = FA_FLAG_ACCUMULATE_DQ | FA_FLAG_ACCUMULATE_DK | FA_FLAG_ACCUMULATE_DV;
  if (desc.direction == FA_FORWARD && (desc.flags & kAccumulate) != 0) {
    return invalid("flags is 0x%x with FA_FLAG_ACCUMULATE_* but direction is FA_FORWARD, which has no gradients", desc.flags);
  }
  if (desc.reserved != 0) return invalid("reserved is %d but must be 0", desc.reserved);
  problem->flags = desc.flags;
  problem->inputs = desc.inputs;
  return Status();
}

Status read_limits(const fa_attention_desc& desc, Problem* problem) {
  FA_TRY(check_least("num_threads", desc.num_threads, 0));
  FA_TRY(check_least("sm_limit", desc.sm_limit, 0));
  FA_TRY(check_least("split_size", desc.split_size, 0));
  if (desc.num_splits < 0 || desc.num_splits > kMaxSplits) {
    return invalid("num_splits is %d but must be 0 to %d", desc.num_splits, kMaxSplits);
  }
  if (desc.num_splits != 0 && desc.split_size != 0) {
    return invalid("num_splits is %d and split_size is %lld but only one of them may be given", desc.num_splits,
                   static_cast<long long>(desc.split_size));
  }
  problem->num_threads = desc.num_threads;
  problem->sm_limit = desc.sm_limit;
  problem->num_splits = desc.num_splits;
  problem->split_size = std::min(desc.split_size, kMaxExtent);
  return Status();
}

Status read_window(const fa_attention_desc& desc, Problem* problem) {
  FA_TRY(check_least("window_left", desc.window_left, -1));
  FA_TRY(check_least("window_right", desc.window_right, -1));
  FA_TRY(check_least("first_keys", desc.first_keys, 0));
  FA_TRY(check_least("chunk", desc.chunk, 0));
  const bool takes_offset = desc.diagonal == FA_DIAGONAL_OFFSET;
  if (!takes_offset && desc.diagonal_offset != 0) {
    return invalid("diagonal_offset is %lld but must be 0 unless diagonal is FA_DIAGONAL_OFFSET",
                   static_cast<long long>(desc.diagonal_offset));
  }
  if (desc.diagonal_offset < -kMaxExtent || desc.diagonal_offset > kMaxExtent) {
    return invalid("diagonal_offset is %lld but must be -2^40 to 2^40", static_cast<long long>(desc.diagonal_offset));
  }
  // No length comes near kUnbounded, so that cutting there changes nothing and keeps sums far from overflow.
  constexpr int64_t kMost = kUnbounded;
  problem->window_left = std::min(desc.window_left, kMost);
  problem->window_right = std::min(desc.window_right, kMost);
  problem->first_keys = std::min(desc.first_keys, kMost);
  problem->chunk = std::min(desc.chunk, kMost);
  problem->diagonal_offset = desc.diagonal_offset;
  return Status();
}

Status read_numbers(const fa_attention_desc& desc, Problem* problem) {
  if (std::isinf(desc.scale)) {
    return invalid("scale is %g but must be finite, or NaN for 1/sqrt(d)", static_cast<double>(desc.scale));
  }
  if (!(desc.softcap >= 0) || std::isinf(desc.softcap)) {
    return invalid("softcap is %g but must be 0 (off) or a finite positive number", static_cast<double>(desc.softcap));
  }
  if (!(desc.dropout_p >= 0 && desc.dropout_p < 1)) {
    return invalid("dropout_p is %g but must be 0 or more and below 1", static_cast<double>(desc.dropout_p));
  }
  problem->scale = desc.scale;  // NaN until d is known
  problem->softcap = desc.softcap;
  problem->dropout_p = desc.dropout_p;
  return Status();
}

// A name or source the caller gives as text; empty counts as absent.
Status check_text(const char* name, const char* text, size_t most_bytes) {
  if (text == nullptr || strnlen(text, most_bytes + 1) <= most_bytes) return Status();
  return invalid("%s is longer than %zu bytes", name, most_bytes);
}

Status read_names(const fa_attention_desc& desc, Problem* problem) {
  FA_TRY(check_text("kernel", desc.kernel, kMaxNameBytes));
  FA_TRY(check_text("isa", desc.isa, kMaxNameBytes));
  FA_TRY(check_text("score_mod", desc.score_mod, kMaxSourceBytes));
  if (desc.kernel != nullptr) problem->kernel = desc.kernel;
  if (desc.isa != nullptr) problem->isa = desc.isa;
  if (!problem->isa.empty() && desc.device_type != FA_DEVICE_CPU) {
    return invalid("isa is \"%s\" but device_type is not FA_DEVICE_CPU", desc.isa);
  }
  problem->has_score_mod = desc.score_mod != nullptr && desc.score_mod[0] != '\0';
  return Status();
}

}  // namespace

Status read_options(const fa_attention_desc& desc, Problem* problem) {
  FA_TRY(read_enums(desc, problem));
  FA_TRY(read_bits(desc, problem));
  FA_TRY(read_limits(desc, problem));
  FA_TRY(read_window(desc, problem));
  FA_TRY(read_numbers(desc, problem));
  return read_names(desc, problem);
}

}  // namespace flash_attn
