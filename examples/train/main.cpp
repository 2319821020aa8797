// Trains the same tiny transformer three times, on the same text from the same start: with textbook attention, and with the
// library's in fp32 and in bf16. The loss curves must lie over each other.
//
//   flash-attn-train [--steps N] [--text FILE] [--svg FILE] [--check]
//
// --check: exit 1 if the curves part or the loss does not fall.
#include "model.h"
#include "plot.h"
#include "text.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

namespace train {
namespace {

struct Arguments {
  int steps = 300;
  std::string text = FLASH_ATTN_TRAIN_TEXT;
  std::string svg;
  bool is_check = false;
};

bool parse(int argc, char** argv, Arguments* arguments) {
  for (int n = 1; n < argc; ++n) {
    const std::string name = argv[n];
    if (name == "--check") {
      arguments->is_check = true;
      continue;
    }
    if (++n == argc) return false;
    if (name == "--steps")
      arguments->steps = std::atoi(argv[n]);
    else if (name == "--text")
      arguments->text = argv[n];
    else if (name == "--svg")
      arguments->svg = argv[n];
    else
      return false;
  }
  return arguments->steps > 0;
}

std::vector<float> run(Kind kind, const Arguments& arguments) {
  Config config;
  Text text(arguments.text, config.length);
  config.vocabulary = text.vocabulary();
  Model model(config, kind);
  std::vector<int> tokens, successors;
  std::vector<float> losses;
  const auto begin = std::chrono::steady_clock::now();
  for (int step = 0; step < arguments.steps; ++step) {
    text.draw(config.batch, &tokens, &successors);
    losses.push_back(model.step(tokens, successors));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%-26s %lld parameters, %d steps of %d characters, %.1f ms a step\n", name_of(kind),
              static_cast<long long>(model.parameters()), arguments.steps, config.tokens(), seconds * 1e3 / arguments.steps);
  return losses;
}

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  float most = 0.0f;
  for (size_t n = 0; n < a.size(); ++n) {
    const float difference = std::fabs(a[n] - b[n]);
    most = std::isnan(difference) ? INFINITY : std::max(most, difference);
  }
  return most;
}

// How far apart curves may be: rounding grows from step to step, so that this is for the few steps of a test. There it is about a
// sixth of this; one head's dq off by 5% would make it four times as much.
constexpr float kMostF32 = 2e-5f, kMostBf16 = 1e-3f, kLeastFall = 0.5f;

bool agree(const std::vector<Curve>& curves) {
  const float f32 = largest_difference(curves[0].losses, curves[1].losses);
  const float bf16 = largest_difference(curves[0].losses, curves[2].losses);
  const float fall = curves[0].losses.front() - curves[0].losses.back();
  std::printf("largest difference from the textbook: fp32 %.2g, bf16 %.2g; the loss fell by %.3f\n", static_cast<double>(f32),
              static_cast<double>(bf16), static_cast<double>(fall));
  return f32 <= kMostF32 && bf16 <= kMostBf16 && fall >= kLeastFall;
}

int train(const Arguments& arguments) {
  std::vector<Curve> curves;
  curves.push_back({name_of(Kind::textbook), "#e08214", run(Kind::textbook, arguments), "", 0});
  curves.push_back({name_of(Kind::library_f32), "#1f4e9c", run(Kind::library_f32, arguments), "4 8", 0});
  curves.push_back({name_of(Kind::library_bf16), "#2a7f3f", run(Kind::library_bf16, arguments), "4 8", 6});
  std::printf("\n%6s %10s %10s %10s\n", "step", "textbook", "fp32", "bf16");
  const int every = std::max(1, arguments.steps / 12);
  for (int step = 0; step < arguments.steps; ++step) {
    if (step % every != 0 && step + 1 != arguments.steps) continue;
    const auto n = static_cast<size_t>(step);
    std::printf("%6d %10.5f %10.5f %10.5f\n", step, static_cast<double>(curves[0].losses[n]),
                static_cast<double>(curves[1].losses[n]), static_cast<double>(curves[2].losses[n]));
  }
  const bool is_right = agree(curves);
  if (!arguments.svg.empty()) write_svg(arguments.svg, curves);
  return arguments.is_check && !is_right ? 1 : 0;
}

}  // namespace
}  // namespace train

int main(int argc, char** argv) {
  train::Arguments arguments;
  if (!train::parse(argc, argv, &arguments)) {
    std::fprintf(stderr, "usage: flash-attn-train [--steps N] [--text FILE] [--svg FILE] [--check]\n");
    return 2;
  }
  try {
    return train::train(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "flash-attn-train: %s\n", error.what());
    return 1;
  }
}
