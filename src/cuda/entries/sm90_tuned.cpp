// See sm90_tuned.h.
#include "cuda/entries/sm90_tuned.h"

#include <algorithm>

namespace flash_attn::cuda {
namespace {

#define FA_TUNED(capability, d, d_v, mask, features, rows, work, keys, ...) \
  {{capability, d, d_v, MaskClass::mask, FeatureClass::features, RowClass::rows, WorkClass::work, KeyClass::keys}, {__VA_ARGS__}},
constexpr Sm90TunedRow kRows[] = {
#include "cuda/entries/sm90_tuned.inc"
    {}  // of no class, so that the table may be empty
};
constexpr size_t kNumRows = sizeof kRows / sizeof kRows[0] - 1;
#undef FA_TUNED

// Registers of a multiprocessor, and of a thread: what is given to one warp group is taken from another.
constexpr int kRegisters = 65536, kUnit = 8, kFewest = 24, kMost = 240;

bool is_register_count(int count) { return count % kUnit == 0 && count >= kFewest && count <= kMost; }

// All threads start with the same number; the groups' own numbers must not add up to more.
int register_pool(const Sm90ForwardConfig& c) {
  return (c.groups + 1) * (kRegisters / (c.threads() * c.blocks_per_sm) / kUnit * kUnit);
}

}  // namespace

std::vector<Sm90TunedRow> tuned_rows_sm90() { return {kRows, kRows + kNumRows}; }

std::string forced_kernel_sm90(const Sm90Schedule& s) {
  return format_text(
      "sm90_fwd:groups=%d,tile_k=%d,stages=%d,rotates_rows=%d,takes_turns=%d,q_buffers=%d,shares_q_buffer=%d,o_passes=%d,"
      "overlaps_tiles=%d,polynomial_exp=%d,integer_tops=%d,consumer_registers=%d,producer_registers=%d",
      s.groups, s.tile_k, s.stages, s.rotates_rows, s.takes_turns, s.q_buffers, s.shares_q_buffer, s.o_passes, s.overlaps_tiles,
      s.polynomial_exp, s.integer_tops, s.consumer_registers, s.producer_registers);
}

void apply_tuned_sm90(const ProblemClass& problem_class, Sm90ForwardConfig* c) {
  const auto is_row = [&](const Sm90TunedRow& row) { return row.problem_class == problem_class; };
  const Sm90TunedRow* const end = kRows + kNumRows;
  const Sm90TunedRow* const at = std::find_if(kRows, end, is_row);
  if (at == end) return;
  c->groups = at->schedule.groups;
  c->tile_k = at->schedule.tile_k;
  c->stages = at->schedule.stages;
  c->rotates_rows = at->schedule.rotates_rows;
  c->takes_turns = at->schedule.takes_turns;
  c->q_buffers = at->schedule.q_buffers;
  c->shares_q_buffer = at->schedule.shares_q_buffer;
  c->o_passes = at->schedule.o_passes;
  c->overlaps_tiles = at->schedule.overlaps_tiles;
  c->polynomial_exp = at->schedule.polynomial_exp;
  c->integer_tops = at->schedule.integer_tops;
  c->consumer_registers = at->schedule.consumer_registers;
  c->producer_registers = at->schedule.producer_registers;
}

Status apply_forced_sm90(const Problem& problem, Sm90ForwardConfig* config) {
  return apply_forced_fields(problem.kernel,
                             {"groups",         "tile_k",          "stages",     "rotates_rows",       "takes_turns",
                              "q_buffers",      "shares_q_buffer", "o_passes",   "overlaps_tiles",     "is_dynamic",
                              "row_warps",      "merges_splits",   "reads_once", "shifts_units",       "blocks_per_sm",
                              "polynomial_exp", "integer_tops",    "lazy_log2",  "consumer_registers", "producer_registers"},
                             config);
}

Status check_schedule_sm90(const Sm90ForwardConfig& c, int shared_bytes) {
  if (c.groups < 1 || c.groups > 3) return unsupported("groups is %d but must be 1 to 3", c.groups);
  if (c.tile_k < 16 || c.tile_k > 256 || c.tile_k % 16 != 0)
    return unsupported("tile_k is %d but must be a multiple of 16 up to 256", c.tile_k);
  if (c.stages < 2 || c.stages > 8) return unsupported("stages is %d but must be 2 to 8", c.stages);
  if (c.polynomial_exp < 0 || c.polynomial_exp > 4) return unsupported("polynomial_exp is %d but must be 0 to 4", c.polynomial_exp);
  if (c.lazy_log2 > 14) return unsupported("lazy_log2 is %d but must be at most 14", c.lazy_log2);
  if (c.shares_q_buffer && c.slabs_v() > c.slabs()) return unsupported("shares_q_buffer is set but o is wider than q");
  if (c.q_buffers < 1 || c.q_buffers > 2) return unsupported("q_buffers is %d but must be 1 or 2", c.q_buffers);
  if (c.q_buffers == 1 && c.overlaps_tiles && c.shares_q_buffer)
    return unsupported(
        "overlaps_tiles is set but the next queries cannot come where o is staged: shares_q_buffer takes q_buffers 2");
  if (c.o_passes < 1 || c.o_passes > c.slabs_v() || (c.o_passes > 1 && c.shares_q_buffer))
    return unsupported("o_passes is %d but must be 1 to the %d slabs of 64 columns of v, and 1 with shares_q_buffer", c.o_passes,
                       c.slabs_v());
  if (c.row_warps && (c.gathers_k || !c.gathers_q))
    return unsupported("row_warps is set but threads read k and v too, or maps move q");
  if (c.merges_splits && !(c.row_warps && c.has_splits))
    return unsupported("merges_splits is set but row_warps is not, or keys are not split");
  if (c.shifts_units && (!c.gathers_k || c.access == 16))
    return unsupported("shifts_units is set but maps move k and v, or rows begin at multiples of 16 bytes");
  if (c.blocks_per_sm < 1 || c.blocks_per_sm > 3) return unsupported("blocks_per_sm is %d but must be 1 to 3", c.blocks_per_sm);
  if (!is_register_count(c.consumer_registers) || !is_register_count(c.producer_registers))
    return unsupported("consumer_registers is %d and producer_registers %d but both must be multiples of 8 from 24 to 240",
                       c.consumer_registers, c.producer_registers);
  if (c.groups * c.consumer_registers + c.producer_registers > register_pool(c))
    return unsupported("%d groups of %d registers and one of %d need more than the %d that all groups have", c.groups,
                       c.consumer_registers, c.producer_registers, register_pool(c));
  if (const int needed = Sm90Layout(c).total; needed > shared_bytes)
    return unsupported("d %d with d_v %d needs %d bytes of shared memory and the device has %d", c.d, c.d_v, needed, shared_bytes);
  return {};
}

}  // namespace flash_attn::cuda
