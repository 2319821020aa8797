// A tiny transformer over characters, with its gradients by hand and Adam: enough to see a loss fall on real text. It takes its
// attention from outside and is the same, to the last random number, whatever that is.
#pragma once

#include "attention.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace train {

struct Config {
  int vocabulary = 0;
  int batch = 8, length = 64;
  int width = 64, layers = 2;
  int heads = 4, key_heads = 2;

  int tokens() const { return batch * length; }
  int head_dim() const { return width / heads; }
  int hidden() const { return 4 * width; }
};

class Model {
 public:
  Model(const Config& config, Kind attention);

  // One step: the mean loss, in nats, of predicting each token's successor, before the update that it leads to.
  float step(const std::vector<int>& tokens, const std::vector<int>& successors);

  int64_t parameters() const { return static_cast<int64_t>(values_.size()); }

 private:
  // Where a weight matrix lies in values_, and its gradient in gradients_.
  struct Weight {
    size_t at = 0;
  };
  struct Layer {
    Weight norm1, qkv, out, norm2, up, down;
    std::unique_ptr<Attention> attention;
    // What the forward leaves for the backward, a row for each token.
    std::vector<float> x, normal1, inverse1, projected, mixed, middle, normal2, inverse2, hidden;
  };

  Weight add_weight(int inputs, int outputs, float spread);
  Weight add_gain(int width);
  float* value(Weight weight) { return &values_[weight.at]; }
  float* gradient(Weight weight) { return &gradients_[weight.at]; }

  void embed(const std::vector<int>& tokens);
  void forward(Layer* layer);
  void backward(Layer* layer);
  float predict(const std::vector<int>& successors);
  void add_embedding_gradient(const std::vector<int>& tokens);
  void update();

  Config config_;
  std::vector<float> values_, gradients_, momentum_, square_;
  uint64_t random_ = 1;
  int steps_ = 0;

  Weight embedding_, position_, norm_, head_;
  std::vector<Layer> layers_;
  std::vector<float> stream_, dstream_;  // the residual stream and its gradient
  std::vector<float> normal_, inverse_, logits_;
};

}  // namespace train
