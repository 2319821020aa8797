// Products of row-major matrices, as plain loops that a compiler vectorises: all that the example's model needs besides attention.
#pragma once

#include <vector>

namespace train {

// y[rows][outputs] = x[rows][inputs] w[inputs][outputs].
void multiply(int rows, int inputs, int outputs, const float* x, const float* w, float* y);

// The gradients of that: dx += dy w^T, dw += x^T dy.
void add_input_gradient(int rows, int inputs, int outputs, const float* dy, const float* w, float* dx);
void add_weight_gradient(int rows, int inputs, int outputs, const float* x, const float* dy, float* dw);

// y = x / rms(x) * gain, row by row; `inverse` keeps 1 / rms of each row for the gradient.
void normalise(int rows, int width, const float* x, const float* gain, float* y, float* inverse);
void add_normalise_gradient(int rows, int width, const float* x, const float* gain, const float* inverse, const float* dy,
                            float* dx, float* dgain);

}  // namespace train
