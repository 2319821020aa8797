// Loss curves as an SVG file.
#pragma once

#include <string>
#include <vector>

namespace train {

struct Curve {
  std::string name, colour;
  std::vector<float> losses;
  std::string dashes = {};  // as SVG has them, so that a curve beneath stays visible; empty: a broad unbroken line
  int dash_offset = 0;
};

// Throws std::runtime_error if the file cannot be written.
void write_svg(const std::string& path, const std::vector<Curve>& curves);

}  // namespace train
