// A tensor map that is encoded once, in its plan's first run: later runs only put their tensor's address into it, which takes the
// driver a fraction of the time. Any number of threads may ask at once.
#pragma once

#include "cuda/tensormap.h"

#include <atomic>
#include <mutex>

namespace flash_attn::cuda {

class KeptMap {
 public:
  // The map of the tensor at `base`, as encode_map makes it. `shape` is the same in every call.
  Status bind(const MapShape& shape, const void* base, TensorMap* to) const;

 private:
  mutable std::mutex mutex_;  // of map_, until it is made
  mutable std::atomic<bool> is_made_{false};
  mutable TensorMap map_{};
};

}  // namespace flash_attn::cuda
