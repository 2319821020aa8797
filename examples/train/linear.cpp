// See linear.h. Inner loops run along rows, so that they need no reordering of sums to be vectorised.
#include "linear.h"

#include <algorithm>
#include <cmath>

namespace train {
namespace {

constexpr float kEpsilon = 1e-5f;

// y += factor * x.
void add_scaled(int count, float factor, const float* x, float* y) {
  for (int n = 0; n < count; ++n) y[n] += factor * x[n];
}

}  // namespace

void multiply(int rows, int inputs, int outputs, const float* x, const float* w, float* y) {
  std::fill_n(y, static_cast<size_t>(rows) * outputs, 0.0f);
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < inputs; ++i) add_scaled(outputs, x[r * inputs + i], w + i * outputs, y + r * outputs);
  }
}

void add_input_gradient(int rows, int inputs, int outputs, const float* dy, const float* w, float* dx) {
  std::vector<float> transposed(static_cast<size_t>(inputs) * outputs);
  for (int i = 0; i < inputs; ++i) {
    for (int o = 0; o < outputs; ++o) transposed[static_cast<size_t>(o * inputs + i)] = w[i * outputs + o];
  }
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < outputs; ++o)
      add_scaled(inputs, dy[r * outputs + o], &transposed[static_cast<size_t>(o * inputs)], dx + r * inputs);
  }
}

void add_weight_gradient(int rows, int inputs, int outputs, const float* x, const float* dy, float* dw) {
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < inputs; ++i) add_scaled(outputs, x[r * inputs + i], dy + r * outputs, dw + i * outputs);
  }
}

void normalise(int rows, int width, const float* x, const float* gain, float* y, float* inverse) {
  for (int r = 0; r < rows; ++r) {
    const float* const row = x + r * width;
    float squares = 0.0f;
    for (int c = 0; c < width; ++c) squares += row[c] * row[c];
    inverse[r] = 1.0f / std::sqrt(squares / static_cast<float>(width) + kEpsilon);
    for (int c = 0; c < width; ++c) y[r * width + c] = row[c] * inverse[r] * gain[c];
  }
}

void add_normalise_gradient(int rows, int width, const float* x, const float* gain, const float* inverse, const float* dy,
                            float* dx, float* dgain) {
  for (int r = 0; r < rows; ++r) {
    const float* const row = x + r * width;
    const float* const drow = dy + r * width;
    float along = 0.0f;  // of the gradient, in the direction of x
    for (int c = 0; c < width; ++c) along += drow[c] * gain[c] * row[c];
    along *= inverse[r] * inverse[r] * inverse[r] / static_cast<float>(width);
    for (int c = 0; c < width; ++c) {
      dgain[c] += drow[c] * row[c] * inverse[r];
      dx[r * width + c] += drow[c] * gain[c] * inverse[r] - along * row[c];
    }
  }
}

}  // namespace train
