// See tune_space.h.
#include "bench/tune_space.h"

namespace flash_attn::bench {
namespace {

// Every union of one of `a` with one of `b`.
Step combine(const Step& a, const Step& b) {
  Step all;
  for (const Fields& one : a) {
    for (const Fields& other : b) {
      all.push_back(one);
      for (const auto& [name, value] : other) all.back()[name] = value;
    }
  }
  return all;
}

Step values(const std::string& name, const std::vector<int>& numbers) {
  Step step;
  for (const int number : numbers) step.push_back({{name, number}});
  return step;
}

std::vector<Step> hopper_steps() {
  const Step groups = {{{"groups", 1}, {"consumer_registers", 240}, {"producer_registers", 128}},
                       {{"groups", 2}, {"consumer_registers", 224}, {"producer_registers", 56}},
                       {{"groups", 3}, {"consumer_registers", 160}, {"producer_registers", 32}}};
  const auto hold = [](int q_buffers, int shares_q_buffer, int o_passes, int overlaps_tiles) {
    return Fields{
        {"q_buffers", q_buffers}, {"shares_q_buffer", shares_q_buffer}, {"o_passes", o_passes}, {"overlaps_tiles", overlaps_tiles}};
  };
  const Step buffers = {hold(2, 0, 1, 1), hold(2, 1, 1, 1), hold(1, 0, 1, 1), hold(1, 0, 2, 1), hold(1, 1, 1, 0)};
  const Step tiles = combine(values("tile_k", {48, 64, 80, 96, 112, 128, 144, 160, 176, 192}), values("stages", {2, 3, 4}));
  const Step registers = {{{"groups", 2}, {"consumer_registers", 240}, {"producer_registers", 24}},
                          {{"groups", 2}, {"consumer_registers", 232}, {"producer_registers", 40}},
                          {{"groups", 2}, {"consumer_registers", 216}, {"producer_registers", 72}},
                          {{"groups", 3}, {"consumer_registers", 152}, {"producer_registers", 56}}};
  return {combine(combine(groups, tiles), buffers), combine(values("takes_turns", {0, 1}), values("rotates_rows", {0, 1})),
          values("integer_tops", {0, 1}), values("polynomial_exp", {0, 1, 2, 3, 4}), registers};
}

std::vector<Step> ampere_steps() {
  const Step shapes = {{{"tile_q", 64}, {"warps", 4}}, {{"tile_q", 128}, {"warps", 4}}, {{"tile_q", 128}, {"warps", 8}}};
  return {combine(combine(shapes, values("tile_k", {16, 32, 48, 64, 80, 96, 128})), values("blocks_per_sm", {1, 2, 3}))};
}

}  // namespace

std::vector<Step> schedule_steps(const std::string& kernel) {
  if (kernel == "sm90_fwd") return hopper_steps();
  if (kernel == "sm80_fwd") return ampere_steps();
  return {};
}

std::vector<std::string> schedule_fields(const std::string& kernel) {
  if (kernel == "sm90_fwd")
    return {"groups",
            "tile_k",
            "stages",
            "rotates_rows",
            "takes_turns",
            "q_buffers",
            "shares_q_buffer",
            "o_passes",
            "overlaps_tiles",
            "polynomial_exp",
            "integer_tops",
            "consumer_registers",
            "producer_registers"};
  return {"tile_q", "tile_k", "warps", "blocks_per_sm"};
}

std::string forced_kernel(const std::string& kernel, const Fields& fields) {
  std::string text = kernel;
  char mark = ':';
  for (const auto& [name, value] : fields) {
    text += mark + name + "=" + std::to_string(value);
    mark = ',';
  }
  return text;
}

}  // namespace flash_attn::bench
