// A small SVG writer: shapes in pixels, appended in drawing order. It knows nothing of attention.
#pragma once

#include <string>
#include <vector>

namespace flash_attn::tool {

class Svg {
 public:
  Svg(double width, double height);

  struct TextStyle {
    double size = 12;
    const char* anchor = "start";  // start, middle or end
    const char* color = "#333333";
    double rotate = 0;  // degrees about the text's position
    bool is_bold = false;
  };

  void rect(double x, double y, double width, double height, const std::string& fill, const std::string& tooltip = {});
  void line(double x1, double y1, double x2, double y2, const std::string& color, double width);
  void polyline(const std::vector<std::pair<double, double>>& points, const std::string& color, double width);
  void circle(double x, double y, double radius, const std::string& fill);
  void text(double x, double y, const std::string& content, const TextStyle& style);

  std::string finish() const;

 private:
  std::string body_;
};

// A colour between white (0) and deep blue (1), even to the eye.
std::string heat_color(double share);

}  // namespace flash_attn::tool
