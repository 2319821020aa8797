// SVG text is built with snprintf: coordinates at a tenth of a pixel, everything else escaped.
#include "svg.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace flash_attn::tool {
namespace {

template <typename... Values>
std::string format(const char* pattern, Values... values) {
  char buffer[512];
  std::snprintf(buffer, sizeof buffer, pattern, values...);
  return buffer;
}

std::string escape(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

}  // namespace

Svg::Svg(double width, double height) {
  body_ = format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" "
      "font-family=\"Helvetica, Arial, sans-serif\">\n",
      width, height, width, height);
  rect(0, 0, width, height, "#ffffff");
}

void Svg::rect(double x, double y, double width, double height, const std::string& fill, const std::string& tooltip) {
  body_ += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"", x, y, width, height, fill.c_str());
  if (tooltip.empty()) {
    body_ += "/>\n";
    return;
  }
  body_ += "><title>";
  body_ += escape(tooltip);
  body_ += "</title></rect>\n";
}

void Svg::line(double x1, double y1, double x2, double y2, const std::string& color, double width) {
  body_ += format("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%.1f\"/>\n", x1, y1, x2, y2,
                  color.c_str(), width);
}

void Svg::polyline(const std::vector<std::pair<double, double>>& points, const std::string& color, double width) {
  body_ += format("<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%.1f\" points=\"", color.c_str(), width);
  for (const auto& [x, y] : points) body_ += format("%.1f,%.1f ", x, y);
  body_ += "\"/>\n";
}

void Svg::circle(double x, double y, double radius, const std::string& fill) {
  body_ += format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\"/>\n", x, y, radius, fill.c_str());
}

void Svg::text(double x, double y, const std::string& content, const TextStyle& style) {
  body_ += format("<text x=\"%.1f\" y=\"%.1f\" font-size=\"%.1f\" text-anchor=\"%s\" fill=\"%s\"", x, y, style.size, style.anchor,
                  style.color);
  if (style.is_bold) body_ += " font-weight=\"bold\"";
  if (style.rotate != 0) body_ += format(" transform=\"rotate(%.1f %.1f %.1f)\"", style.rotate, x, y);
  body_ += '>';
  body_ += escape(content);
  body_ += "</text>\n";
}

std::string Svg::finish() const { return body_ + "</svg>\n"; }

std::string heat_color(double share) {
  struct Stop {
    double at, red, green, blue;
  };
  static constexpr Stop kStops[] = {
      {0.0, 255, 255, 255}, {0.25, 198, 219, 239}, {0.5, 107, 174, 214}, {0.75, 33, 113, 181}, {1.0, 8, 48, 107}};
  const double x = std::clamp(std::isnan(share) ? 0.0 : share, 0.0, 1.0);
  for (size_t i = 1; i < std::size(kStops); ++i) {
    const Stop &a = kStops[i - 1], &b = kStops[i];
    if (x > b.at) continue;
    const double t = (x - a.at) / (b.at - a.at);
    const auto mix = [t](double from, double to) { return static_cast<int>(std::lround(from + t * (to - from))); };
    return format("#%02x%02x%02x", mix(a.red, b.red), mix(a.green, b.green), mix(a.blue, b.blue));
  }
  return "#08306b";
}

}  // namespace flash_attn::tool
