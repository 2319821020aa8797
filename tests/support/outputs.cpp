// The outputs of a TestProblem: sentinel, reading, and the search for writes where none belong.
#include "tests/oracle/values.h"
#include "tests/support/problem_builder.h"

#include <cstring>

namespace flash_attn::test {
namespace {

// A NaN in f32, f16 and bf16 alike.
constexpr uint16_t kSentinel = 0xFFA5;

void fill_sentinel(const GuardedBuffer& buffer) {
  auto* halves = buffer.as<uint16_t>();
  for (size_t n = 0; n < buffer.bytes() / 2; ++n) halves[n] = kSentinel;
}

int64_t first_changed(const GuardedBuffer& buffer) {
  const auto* halves = buffer.as<uint16_t>();
  for (size_t n = 0; n < buffer.bytes() / 2; ++n) {
    if (halves[n] != kSentinel) return static_cast<int64_t>(n);
  }
  return -1;
}

}  // namespace

void TestProblem::reset_outputs() {
  fill_sentinel(o_);
  fill_sentinel(lse_);
}

Outputs TestProblem::read_outputs(const std::vector<oracle::RowId>& rows) const {
  const oracle::View view(desc_, args_);
  Outputs outputs;
  outputs.o.reserve(rows.size() * static_cast<size_t>(view.d_v()));
  for (const oracle::RowId& row : rows) {
    const int64_t offset = view.o_offset(row.request, row.head, row.i);
    for (int64_t c = 0; c < view.d_v(); ++c) {
      outputs.o.push_back(static_cast<float>(oracle::load_value(args_.o, desc_.o.dtype, offset + c)));
    }
    if (args_.lse != nullptr) outputs.lse.push_back(args_.lse[view.lse_offset(row.request, row.head, row.i)]);
  }
  return outputs;
}

std::string TestProblem::find_damage() {
  const oracle::View view(desc_, args_);
  const int64_t size = element_bytes(desc_.o.dtype);
  for (const oracle::RowId& row : oracle::all_rows(view)) {
    auto* o = reinterpret_cast<uint16_t*>(static_cast<char*>(args_.o) + view.o_offset(row.request, row.head, row.i) * size);
    for (int64_t n = 0; n < view.d_v() * size / 2; ++n) o[n] = kSentinel;
    if (args_.lse == nullptr) continue;
    auto* lse = reinterpret_cast<uint16_t*>(args_.lse + view.lse_offset(row.request, row.head, row.i));
    lse[0] = lse[1] = kSentinel;
  }
  if (const int64_t n = first_changed(o_); n >= 0)
    return "o was written outside its live rows, element " + std::to_string(n * 2 / size);
  if (const int64_t n = first_changed(lse_); n >= 0)
    return "lse was written outside its live rows, element " + std::to_string(n / 2);
  if (!o_.is_slack_intact()) return "memory beside o was written";
  if (!lse_.is_slack_intact()) return "memory beside lse was written";
  return "";
}

bool TestProblem::outputs_untouched() const { return first_changed(o_) < 0 && first_changed(lse_) < 0; }

}  // namespace flash_attn::test
