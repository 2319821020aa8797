// See plot.h.
#include "plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <stdexcept>

namespace train {
namespace {

constexpr double kLeft = 60, kTop = 30, kWidth = 640, kHeight = 360;

std::string format(const char* form, double a, double b = 0, double c = 0, double d = 0) {
  char text[256];
  std::snprintf(text, sizeof text, form, a, b, c, d);
  return text;
}

struct Range {
  double low = INFINITY, high = -INFINITY;
  double y(double value) const { return kTop + kHeight * (high - value) / (high - low); }
};

std::string axes(const Range& range, size_t steps) {
  std::string svg;
  for (double loss = std::ceil(range.low * 2) / 2; loss <= range.high; loss += 0.5) {
    svg += format("<line x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f' stroke='#ddd'/>\n", kLeft, range.y(loss), kLeft + kWidth,
                  range.y(loss));
    svg += format("<text x='%.1f' y='%.1f' text-anchor='end'>", kLeft - 6, range.y(loss) + 4) + format("%.1f", loss) + "</text>\n";
  }
  for (int part = 0; part <= 4; ++part) {
    svg += format("<text x='%.1f' y='%.1f' text-anchor='middle'>", kLeft + kWidth * part / 4, kTop + kHeight + 18);
    svg += format("%.0f", static_cast<double>(steps) * part / 4) + "</text>\n";
  }
  svg += format("<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='none' stroke='#888'/>\n", kLeft, kTop, kWidth, kHeight);
  svg += format("<text x='%.1f' y='%.1f' text-anchor='middle'>step</text>\n", kLeft + kWidth / 2, kTop + kHeight + 36);
  return svg + format("<text x='%.1f' y='%.1f'>loss, nats a character</text>\n", kLeft, kTop - 10);
}

std::string polyline(const Curve& curve, const Range& range) {
  std::string svg =
      "<polyline fill='none' stroke='" + curve.colour + "' stroke-width='" + (curve.dashes.empty() ? "3.2" : "1.6") + "'";
  if (!curve.dashes.empty()) {
    svg += " stroke-dasharray='" + curve.dashes + "' stroke-dashoffset='" + std::to_string(curve.dash_offset) + "'";
  }
  svg += " points='";
  for (size_t n = 0; n < curve.losses.size(); ++n) {
    const double x = kLeft + kWidth * (static_cast<double>(n) + 0.5) / static_cast<double>(curve.losses.size());
    svg += format("%.1f,%.1f ", x, range.y(curve.losses[n]));
  }
  return svg + "'/>\n";
}

}  // namespace

void write_svg(const std::string& path, const std::vector<Curve>& curves) {
  Range range;
  for (const Curve& curve : curves) {
    for (const float loss : curve.losses) {
      range.low = std::min<double>(range.low, loss);
      range.high = std::max<double>(range.high, loss);
    }
  }
  if (!(range.high > range.low)) range = {0, 1};
  std::string svg = "<svg xmlns='http://www.w3.org/2000/svg' width='720' height='440' font-family='sans-serif' font-size='12'>\n";
  svg += "<rect width='720' height='440' fill='white'/>\n" + axes(range, curves.front().losses.size());
  double y = kTop + 20;
  for (const Curve& curve : curves) {
    svg += polyline(curve, range);
    svg += format("<text x='%.1f' y='%.1f' text-anchor='end' fill='", kLeft + kWidth - 10, y) + curve.colour + "'>" + curve.name +
           "</text>\n";
    y += 18;
  }
  std::ofstream file(path);
  file << svg << "</svg>\n";
  if (!file.good()) throw std::runtime_error("cannot write " + path);
}

}  // namespace train
