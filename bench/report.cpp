// Text, JSON and SVG of benchmark results.
#include "bench/report.h"

#include "tools/flash-attn/svg.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace flash_attn::bench {
namespace {

using Json = nlohmann::json;

template <typename... Values>
std::string format(const char* pattern, Values... values) {
  char buffer[512];
  std::snprintf(buffer, sizeof buffer, pattern, values...);
  return buffer;
}

std::string time_text(double seconds) {
  if (seconds < 1e-3) return format("%.2f us", seconds * 1e6);
  return format("%.3f ms", seconds * 1e3);
}

std::string series_name(const Measurement& result) {
  return result.dtype + ", " + result.isa + format(", %d thread%s", result.threads, result.threads == 1 ? "" : "s");
}

// Results of one case, in the order of the series.
struct Row {
  std::string name;
  std::vector<const Measurement*> bars;
};

std::vector<Row> rows_of(const std::vector<Measurement>& results) {
  std::vector<Row> rows;
  for (const Measurement& result : results) {
    const auto same = [&](const Row& row) { return row.name == result.name; };
    auto row = std::find_if(rows.begin(), rows.end(), same);
    if (row == rows.end()) row = rows.insert(rows.end(), Row{result.name, {}});
    row->bars.push_back(&result);
  }
  return rows;
}

constexpr const char* kColors[] = {"#2171b5", "#d94801", "#238b45", "#6a51a3", "#737373", "#c51b8a", "#8c6d31", "#17becf"};

using Series = std::vector<std::pair<std::string, std::string>>;  // name and colour, in the order of the results

Series series_of(const std::vector<Measurement>& results) {
  Series series;
  for (const Measurement& result : results) {
    const std::string name = series_name(result);
    const auto same = [&](const auto& entry) { return entry.first == name; };
    if (std::none_of(series.begin(), series.end(), same)) series.emplace_back(name, kColors[series.size() % std::size(kColors)]);
  }
  return series;
}

const std::string& color_of(const Series& series, const Measurement& result) {
  const std::string name = series_name(result);
  return std::find_if(series.begin(), series.end(), [&](const auto& entry) { return entry.first == name; })->second;
}

}  // namespace

std::string machine_text(const Machine& machine, const std::vector<Ceilings>& ceilings) {
  std::string text = format("flash-attn-lib %s on %s, %d processors, best instruction set %s\n", machine.library.c_str(),
                            machine.cpu.c_str(), machine.processors, machine.isa.c_str());
  for (const Ceilings& c : ceilings) {
    text +=
        format("Ceilings measured with %d thread%s: fp32 FMA %.0f GFLOP/s", c.threads, c.threads == 1 ? "" : "s", c.fma_f32 * 1e-9);
    if (c.dot_bf16 > 0) text += format(", bf16 dot %.0f", c.dot_bf16 * 1e-9);
    if (c.tile_bf16 > 0) text += format(", AMX bf16 %.0f", c.tile_bf16 * 1e-9);
    text += format(", read %.1f GB/s\n", c.read_bandwidth * 1e-9);
  }
  return text;
}

std::string table_head() {
  return format("%-28s %-4s %-12s %3s %12s %9s %8s %6s  %s\n", "case", "type", "isa", "thr", "median", "GFLOP/s", "GB/s", "share",
                "of");
}

std::string table_line(const Measurement& r) {
  return format("%-28s %-4s %-12s %3d %12s %9.1f %8.1f %5.0f%%  %s\n", r.name.c_str(), r.dtype.c_str(), r.isa.c_str(), r.threads,
                time_text(r.median_seconds).c_str(), r.flops / r.median_seconds * 1e-9, r.bytes / r.median_seconds * 1e-9,
                100 * r.share, r.bound.c_str());
}

std::string table_summary(const std::vector<Measurement>& results) {
  std::map<std::string, std::pair<double, int>> groups;
  for (const Measurement& result : results) {
    if (!(result.share > 0)) continue;
    auto& [sum, count] = groups[series_name(result) + ", share of " + result.bound];
    sum += std::log(result.share);
    ++count;
  }
  std::string text = "\nGeometric means\n";
  for (const auto& [name, group] : groups) {
    text += format("  %-52s %5.0f%%  (%d cases)\n", name.c_str(), 100 * std::exp(group.first / group.second), group.second);
  }
  return text;
}

std::string machine_json(const Machine& machine, const std::vector<Ceilings>& ceilings) {
  Json json = {{"record", "machine"},
               {"cpu", machine.cpu},
               {"isa", machine.isa},
               {"library", machine.library},
               {"processors", machine.processors},
               {"cache_bytes", machine.cache_bytes},
               {"ceilings", Json::array()}};
  for (const Ceilings& c : ceilings) {
    json["ceilings"].push_back({{"threads", c.threads},
                                {"fma_f32_flops", c.fma_f32},
                                {"dot_bf16_flops", c.dot_bf16},
                                {"tile_bf16_flops", c.tile_bf16},
                                {"read_bytes", c.read_bandwidth}});
  }
  return json.dump() + "\n";
}

std::string measurement_json(const Measurement& r) {
  const Json json = {{"record", "case"},
                     {"case", r.name},
                     {"dtype", r.dtype},
                     {"isa", r.isa},
                     {"threads", r.threads},
                     {"kernel", r.kernel},
                     {"median_seconds", r.median_seconds},
                     {"best_seconds", r.best_seconds},
                     {"rounds", r.rounds},
                     {"flops", r.flops},
                     {"bytes", r.bytes},
                     {"share", r.share},
                     {"bound", r.bound}};
  return json.dump() + "\n";
}

std::string plot_svg(const Machine& machine, const std::vector<Measurement>& results) {
  const std::vector<Row> rows = rows_of(results);
  const Series colors = series_of(results);
  const double left = 230, full = 560, bar = 10, gap = 8, top = 76 + 18.0 * static_cast<double>(colors.size());
  double height = top + 30;
  for (const Row& row : rows) height += bar * static_cast<double>(row.bars.size()) + gap;
  tool::Svg svg(left + full + 150, height);
  svg.text(20, 28, "Share of the machine's measured peak", {.size = 17, .is_bold = true});
  svg.text(20, 48, machine.cpu + ", flash-attn-lib " + machine.library, {.size = 12, .color = "#666666"});
  double y = 66;
  for (const auto& [name, color] : colors) {
    svg.rect(20, y, 12, 12, color);
    svg.text(38, y + 10, name, {.size = 12});
    y += 18;
  }
  for (int percent = 0; percent <= 100; percent += 20) {
    const double x = left + full * percent / 100;
    svg.line(x, top - 6, x, height - 24, percent == 100 ? "#999999" : "#e0e0e0", 1);
    svg.text(x, height - 8, std::to_string(percent) + "%", {.size = 11, .anchor = "middle", .color = "#666666"});
  }
  y = top;
  for (const Row& row : rows) {
    const double block = bar * static_cast<double>(row.bars.size());
    svg.text(left - 8, y + block / 2 + 4, row.name, {.size = 11, .anchor = "end"});
    for (const Measurement* r : row.bars) {
      const double width = full * std::min(r->share, 1.2);
      svg.rect(left, y, width, bar - 1.5, color_of(colors, *r), series_name(*r) + ": " + time_text(r->median_seconds));
      svg.text(left + width + 4, y + 8, format("%.0f%% of %s", 100 * r->share, r->bound.c_str()), {.size = 8, .color = "#666666"});
      y += bar;
    }
    y += gap;
  }
  return svg.finish();
}

}  // namespace flash_attn::bench
