// Classes of problems that share a schedule: what the tuned tables (sm90_tuned.inc) are keyed by, and how a caller forces a
// schedule. Boundaries are counted in tiles against multiprocessors and in blocks of keys, never in a benchmark's lengths.
#pragma once

#include "core/problem.h"
#include "core/status.h"
#include "cuda/device.h"

#include <charconv>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

namespace flash_attn::cuda {

enum class MaskClass : int { none, right, interval };
// Nothing beside the mask; lengths read on the device; pages; scores changed by softcap, ALiBi or a scale that is not positive;
// bias, boolean mask, tree or dropout, which the kernel looks up score by score.
enum class FeatureClass : int { plain, lengths, paged, scores, lookups };
enum class RowClass : int { low, tall };        // at most one tile of 128 query rows; more
enum class WorkClass : int { light, full };     // fewer than two tiles of 128 rows for each multiprocessor; more
enum class KeyClass : int { few, some, many };  // at most 8, 32 blocks of 128 keys that a row can see; more

struct ProblemClass {
  int capability = 0;
  int d = 0, d_v = 0;  // rounded up to 64, 96, 128, 192, 256
  MaskClass mask = MaskClass::none;
  FeatureClass features = FeatureClass::plain;
  RowClass rows = RowClass::tall;
  WorkClass work = WorkClass::full;
  KeyClass keys = KeyClass::many;

  bool operator==(const ProblemClass&) const = default;
};

// With batch_invariant, rows, work and keys count as the most whatever they are.
ProblemClass classify(const Problem& problem, const DeviceInfo& device);

// As a row of a table begins: "90, 128, 128, none, plain, tall, full, many".
std::string class_text(const ProblemClass& problem_class);

// Problem::kernel is a name, or a name and fields of its configuration: "sm90_fwd:tile_k=80,stages=3".
std::string_view kernel_name_of(const std::string& kernel);
std::string_view forced_fields_of(const std::string& kernel);

namespace detail {

// Sets the field of a name; the configuration behind `fields` is no constant.
struct FieldSetter {
  std::string_view name;
  long long number;
  bool is_set = false;

  template <class Value>
  void operator()(const char* field, const Value& value) {
    if (name != field) return;
    const_cast<Value&>(value) = static_cast<Value>(number);
    is_set = true;
  }
};

// Takes "name=number" off the front of a list; false if that is not how it begins.
bool take_field(std::string_view* list, std::string_view* name, long long* number);

Status refuse_field(const std::string& kernel, std::initializer_list<const char*> choices);

}  // namespace detail

// Sets the fields that `kernel` forces. Only `choices` may be forced: the others follow from the problem. Whether the result makes
// a kernel is for the caller to check.
template <class Config>
Status apply_forced_fields(const std::string& kernel, std::initializer_list<const char*> choices, Config* config) {
  std::string_view list = forced_fields_of(kernel);
  while (!list.empty()) {
    detail::FieldSetter setter = {};
    if (!detail::take_field(&list, &setter.name, &setter.number)) return detail::refuse_field(kernel, choices);
    for (const char* choice : choices)
      if (setter.name == choice) config->fields(setter);
    if (!setter.is_set) return detail::refuse_field(kernel, choices);
  }
  return {};
}

}  // namespace flash_attn::cuda
