// Causal self-attention of a layer, forward and backward: by the library, or by the textbook with the whole matrix of weights. The
// model does not know which one it has.
#pragma once

#include <cstdint>
#include <memory>

namespace train {

struct AttentionShape {
  int64_t batch = 0, length = 0;
  int64_t heads = 0, key_heads = 0, dim = 0;

  // q, k and v of a token lie one after another in a row of the projection's output, and so do their gradients.
  int64_t row() const { return (heads + 2 * key_heads) * dim; }
  int64_t k_offset() const { return heads * dim; }
  int64_t v_offset() const { return (heads + key_heads) * dim; }
  int64_t o_row() const { return heads * dim; }
};

class Attention {
 public:
  virtual ~Attention() = default;

  // o [batch, length, heads, dim] from qkv [batch, length, row()]. What the backward needs is kept until the next forward.
  virtual void forward(const float* qkv, float* o) = 0;
  // Writes dqkv. qkv and o are those of the last forward.
  virtual void backward(const float* qkv, const float* o, const float* dout, float* dqkv) = 0;
};

enum class Kind { textbook, library_f32, library_bf16 };
const char* name_of(Kind kind);

std::unique_ptr<Attention> make_attention(Kind kind, const AttentionShape& shape);

}  // namespace train
