// See model.h. Each layer: x += out(attention(qkv(norm1(x)))), then x += down(relu(up(norm2(x)))).
#include "model.h"

#include "linear.h"

#include <algorithm>
#include <cmath>

namespace train {
namespace {

constexpr float kRate = 2e-3f, kBeta1 = 0.9f, kBeta2 = 0.99f, kEpsilon = 1e-8f;
constexpr int kWarmup = 20;

// SplitMix64; about normal as the sum of four uniforms.
float random_normal(uint64_t* state) {
  uint64_t z = (*state += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  z ^= z >> 31;
  float sum = -2.0f;
  for (int part = 0; part < 4; ++part) sum += static_cast<float>(z >> (16 * part) & 0xFFFF) / 65536.0f;
  return sum * 1.7320508f;
}

void add(const std::vector<float>& x, std::vector<float>* y) {
  for (size_t n = 0; n < x.size(); ++n) (*y)[n] += x[n];
}

}  // namespace

Model::Model(const Config& config, Kind attention) : config_(config) {
  const int width = config.width;
  const AttentionShape shape = {config.batch, config.length, config.heads, config.key_heads, config.head_dim()};
  const int fused = static_cast<int>(shape.row());
  const float spread = 1.0f / std::sqrt(static_cast<float>(width));
  embedding_ = add_weight(config.vocabulary, width, 0.5f);
  position_ = add_weight(config.length, width, 0.1f);
  layers_.resize(static_cast<size_t>(config.layers));
  for (Layer& layer : layers_) {
    layer.norm1 = add_gain(width);
    layer.qkv = add_weight(width, fused, spread);
    layer.out = add_weight(width, width, 0.5f * spread);
    layer.norm2 = add_gain(width);
    layer.up = add_weight(width, config.hidden(), spread);
    layer.down = add_weight(config.hidden(), width, 0.25f * spread);
    layer.attention = make_attention(attention, shape);
    const auto rows = [&](int columns) { return std::vector<float>(static_cast<size_t>(config.tokens()) * columns); };
    layer.normal1 = layer.mixed = layer.normal2 = rows(width);
    layer.inverse1 = layer.inverse2 = rows(1);
    layer.projected = rows(fused);
    layer.hidden = rows(config.hidden());
  }
  norm_ = add_gain(width);
  head_ = add_weight(width, config.vocabulary, spread);
  gradients_.resize(values_.size());
  momentum_.resize(values_.size());
  square_.resize(values_.size());
  stream_.resize(static_cast<size_t>(config.tokens()) * width);
  dstream_ = normal_ = stream_;
  inverse_.resize(static_cast<size_t>(config.tokens()));
  logits_.resize(static_cast<size_t>(config.tokens()) * config.vocabulary);
}

Model::Weight Model::add_weight(int inputs, int outputs, float spread) {
  const Weight weight = {values_.size()};
  for (int n = 0; n < inputs * outputs; ++n) values_.push_back(spread * random_normal(&random_));
  return weight;
}

Model::Weight Model::add_gain(int width) {
  const Weight weight = {values_.size()};
  values_.insert(values_.end(), static_cast<size_t>(width), 1.0f);
  return weight;
}

float Model::step(const std::vector<int>& tokens, const std::vector<int>& successors) {
  std::fill(gradients_.begin(), gradients_.end(), 0.0f);
  embed(tokens);
  for (Layer& layer : layers_) forward(&layer);
  const float loss = predict(successors);
  for (size_t n = layers_.size(); n-- > 0;) backward(&layers_[n]);
  add_embedding_gradient(tokens);
  update();
  return loss;
}

void Model::embed(const std::vector<int>& tokens) {
  const int width = config_.width;
  for (int t = 0; t < config_.tokens(); ++t) {
    const float* const symbol = value(embedding_) + tokens[static_cast<size_t>(t)] * width;
    const float* const place = value(position_) + t % config_.length * width;
    for (int c = 0; c < width; ++c) stream_[static_cast<size_t>(t * width + c)] = symbol[c] + place[c];
  }
}

void Model::forward(Layer* layer) {
  const int tokens = config_.tokens(), width = config_.width, hidden = config_.hidden();
  const int fused = static_cast<int>(layer->projected.size()) / tokens;
  std::vector<float> added(stream_.size());
  layer->x = stream_;
  normalise(tokens, width, stream_.data(), value(layer->norm1), layer->normal1.data(), layer->inverse1.data());
  multiply(tokens, width, fused, layer->normal1.data(), value(layer->qkv), layer->projected.data());
  layer->attention->forward(layer->projected.data(), layer->mixed.data());
  multiply(tokens, width, width, layer->mixed.data(), value(layer->out), added.data());
  add(added, &stream_);
  layer->middle = stream_;
  normalise(tokens, width, stream_.data(), value(layer->norm2), layer->normal2.data(), layer->inverse2.data());
  multiply(tokens, width, hidden, layer->normal2.data(), value(layer->up), layer->hidden.data());
  for (float& x : layer->hidden) x = std::max(x, 0.0f);
  multiply(tokens, hidden, width, layer->hidden.data(), value(layer->down), added.data());
  add(added, &stream_);
}

// dstream_ comes in as the gradient of the layer's output and goes out as that of its input.
void Model::backward(Layer* layer) {
  const int tokens = config_.tokens(), width = config_.width, hidden = config_.hidden();
  const int fused = static_cast<int>(layer->projected.size()) / tokens;
  std::vector<float> dhidden(layer->hidden.size(), 0.0f), dnormal(stream_.size(), 0.0f);
  add_weight_gradient(tokens, hidden, width, layer->hidden.data(), dstream_.data(), gradient(layer->down));
  add_input_gradient(tokens, hidden, width, dstream_.data(), value(layer->down), dhidden.data());
  for (size_t n = 0; n < dhidden.size(); ++n) dhidden[n] = layer->hidden[n] > 0 ? dhidden[n] : 0.0f;
  add_weight_gradient(tokens, width, hidden, layer->normal2.data(), dhidden.data(), gradient(layer->up));
  add_input_gradient(tokens, width, hidden, dhidden.data(), value(layer->up), dnormal.data());
  add_normalise_gradient(tokens, width, layer->middle.data(), value(layer->norm2), layer->inverse2.data(), dnormal.data(),
                         dstream_.data(), gradient(layer->norm2));

  std::vector<float> dmixed(stream_.size(), 0.0f), dprojected(layer->projected.size());
  std::fill(dnormal.begin(), dnormal.end(), 0.0f);
  add_weight_gradient(tokens, width, width, layer->mixed.data(), dstream_.data(), gradient(layer->out));
  add_input_gradient(tokens, width, width, dstream_.data(), value(layer->out), dmixed.data());
  layer->attention->backward(layer->projected.data(), layer->mixed.data(), dmixed.data(), dprojected.data());
  add_weight_gradient(tokens, width, fused, layer->normal1.data(), dprojected.data(), gradient(layer->qkv));
  add_input_gradient(tokens, width, fused, dprojected.data(), value(layer->qkv), dnormal.data());
  add_normalise_gradient(tokens, width, layer->x.data(), value(layer->norm1), layer->inverse1.data(), dnormal.data(),
                         dstream_.data(), gradient(layer->norm1));
}

// Logits, the mean loss, and the gradient of both back to the residual stream.
float Model::predict(const std::vector<int>& successors) {
  const int tokens = config_.tokens(), width = config_.width, vocabulary = config_.vocabulary;
  normalise(tokens, width, stream_.data(), value(norm_), normal_.data(), inverse_.data());
  multiply(tokens, width, vocabulary, normal_.data(), value(head_), logits_.data());
  double loss = 0;
  for (int t = 0; t < tokens; ++t) {
    float* const row = &logits_[static_cast<size_t>(t * vocabulary)];
    const float top = *std::max_element(row, row + vocabulary);
    float sum = 0.0f;
    for (int c = 0; c < vocabulary; ++c) sum += std::exp(row[c] - top);
    const int right = successors[static_cast<size_t>(t)];
    loss += std::log(sum) + top - row[right];
    for (int c = 0; c < vocabulary; ++c) row[c] = std::exp(row[c] - top) / sum / static_cast<float>(tokens);
    row[right] -= 1.0f / static_cast<float>(tokens);
  }
  std::vector<float> dnormal(stream_.size(), 0.0f);
  std::fill(dstream_.begin(), dstream_.end(), 0.0f);
  add_weight_gradient(tokens, width, vocabulary, normal_.data(), logits_.data(), gradient(head_));
  add_input_gradient(tokens, width, vocabulary, logits_.data(), value(head_), dnormal.data());
  add_normalise_gradient(tokens, width, stream_.data(), value(norm_), inverse_.data(), dnormal.data(), dstream_.data(),
                         gradient(norm_));
  return static_cast<float>(loss / tokens);
}

void Model::add_embedding_gradient(const std::vector<int>& tokens) {
  const int width = config_.width;
  for (int t = 0; t < config_.tokens(); ++t) {
    float* const symbol = gradient(embedding_) + tokens[static_cast<size_t>(t)] * width;
    float* const place = gradient(position_) + t % config_.length * width;
    for (int c = 0; c < width; ++c) {
      symbol[c] += dstream_[static_cast<size_t>(t * width + c)];
      place[c] += dstream_[static_cast<size_t>(t * width + c)];
    }
  }
}

void Model::update() {
  ++steps_;
  const float rate = kRate * std::min(1.0f, static_cast<float>(steps_) / kWarmup);
  const float correct1 = 1.0f - std::pow(kBeta1, static_cast<float>(steps_));
  const float correct2 = 1.0f - std::pow(kBeta2, static_cast<float>(steps_));
  for (size_t n = 0; n < values_.size(); ++n) {
    momentum_[n] = kBeta1 * momentum_[n] + (1 - kBeta1) * gradients_[n];
    square_[n] = kBeta2 * square_[n] + (1 - kBeta2) * gradients_[n] * gradients_[n];
    values_[n] -= rate * (momentum_[n] / correct1) / (std::sqrt(square_[n] / correct2) + kEpsilon);
  }
}

}  // namespace train
