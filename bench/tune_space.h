// The schedules that are tried for a kernel, as fields of its configuration. Some make no kernel; the library refuses those.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace flash_attn::bench {

using Fields = std::map<std::string, int>;

// One step of the search: each is tried on top of the best so far, the best of all is kept.
using Step = std::vector<Fields>;

// In the order of the search; empty for a kernel that has none.
std::vector<Step> schedule_steps(const std::string& kernel);

// The names of the fields, in the order of the configuration.
std::vector<std::string> schedule_fields(const std::string& kernel);

// "sm90_fwd:groups=2,tile_k=80".
std::string forced_kernel(const std::string& kernel, const Fields& fields);

}  // namespace flash_attn::bench
