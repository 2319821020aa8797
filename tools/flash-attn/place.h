// Where the program computes: arrays of the host, used as they lie on a CPU and copied to a GPU's memory. The same code then serves
// both.
#pragma once

#include "array.h"
#include "engine.h"
#include "timing.h"

#include <memory>
#include <string>
#include <vector>

namespace flash_attn::tool {

class Place {
 public:
  // "cpu", "cuda" or "cuda:i".
  explicit Place(const std::string& device);

  bool is_gpu() const { return gpu_ != nullptr; }
  std::string name() const;

  // A description that computes here.
  fa_attention_desc new_desc() const;
  Attention plan(const fa_attention_desc& desc) const { return Attention(desc, gpu_.get()); }
  // Compiles what the plans of these descriptions need, side by side. Failures show when they are planned for good.
  void prepare_together(const std::vector<fa_attention_desc>& descs) const;

  // The pointer to give to a run. It lives as long as this place and the array.
  template <typename T>
  T* pointer_to(const Array& array) const {
    if (!is_gpu()) return const_cast<T*>(reinterpret_cast<const T*>(array.data()));
    return static_cast<T*>(gpu_->copy_in(array.data(), array.bytes()));
  }
  // What a run has written behind a pointer, into its array.
  void fetch(Array* array, const void* pointer) const;

  // A run's time until its results are there.
  Timing time_runs(const Attention& attention, const fa_attention_args& args, double seconds, int most) const;

 private:
  fa_attention_desc base_;
  std::unique_ptr<Gpu> gpu_;
};

}  // namespace flash_attn::tool
