// See kept_map.h.
#include "cuda/kept_map.h"

#include "cuda/driver.h"

namespace flash_attn::cuda {

Status KeptMap::bind(const MapShape& shape, const void* base, TensorMap* to) const {
  if (!is_made_.load(std::memory_order_acquire)) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!is_made_.load(std::memory_order_relaxed)) {
      FA_TRY(encode_map(shape, base, &map_));
      is_made_.store(true, std::memory_order_release);
    }
  }
  *to = map_;
  const Driver* driver = nullptr;
  FA_TRY(get_driver(&driver));
  const CUresult result = driver->cuTensorMapReplaceAddress(reinterpret_cast<CUtensorMap*>(to), const_cast<void*>(base));
  return result == kCudaSuccess ? Status() : driver_status(*driver, result, "putting an address into a tensor map");
}

}  // namespace flash_attn::cuda
