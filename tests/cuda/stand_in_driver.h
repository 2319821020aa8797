// What the stand-ins for libcuda.so.1 (emulated/, recording/) answer alike: one GPU with one context, whose memory is the host's.
#pragma once

#include "cuda/driver_types.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace flash_attn::stand_in {

using namespace flash_attn::cuda;

inline CUcontext the_context() { return reinterpret_cast<CUcontext>(uintptr_t{0x1000}); }

inline CUresult device_count(int* count) {
  *count = 1;
  return kCudaSuccess;
}
inline CUresult device_get(CUdevice* device, int index) {
  *device = index;
  return index == 0 ? kCudaSuccess : kCudaErrorInvalidValue;
}
// Of a GPU with the multiprocessors and the L2 cache of an H200 and the shared memory of its compute capability.
inline int device_attribute(int attribute, int capability) {
  const bool is_small = capability % 10 != 0 || capability >= 120;
  switch (attribute) {
    case kComputeCapabilityMajor:
      return capability / 10;
    case kComputeCapabilityMinor:
      return capability % 10;
    case kMultiprocessorCount:
      return 132;
    case kMaxSharedMemoryPerBlockOptin:
      return (is_small ? 99 : capability == 80 ? 163 : 227) << 10;
    case kMaxSharedMemoryPerMultiprocessor:
      return (is_small ? 100 : capability == 80 ? 164 : 228) << 10;
    case kL2CacheSize:
      return 50 << 20;
    default:
      return 0;
  }
}

inline CUresult retain(CUcontext* context, CUdevice) {
  *context = the_context();
  return kCudaSuccess;
}
inline CUresult get_device(CUdevice* device) {
  *device = 0;
  return kCudaSuccess;
}
inline CUresult stream_context(CUstream, CUcontext* context) {
  *context = the_context();
  return kCudaSuccess;
}
inline CUresult stream_create(CUstream* stream, unsigned) {
  *stream = reinterpret_cast<CUstream>(uintptr_t{0x2000});
  return kCudaSuccess;
}
inline CUresult is_capturing(CUstream, int* status) {
  *status = kCaptureNone;
  return kCudaSuccess;
}
inline CUresult error_text(CUresult, const char** text) {
  *text = "an error of the stand-in for the driver";
  return kCudaSuccess;
}
inline CUresult get_function(CUfunction* function, CUkernel kernel) {
  *function = reinterpret_cast<CUfunction>(kernel);
  return kCudaSuccess;
}

inline CUresult allocate(CUdeviceptr* pointer, size_t bytes) {
  *pointer = reinterpret_cast<CUdeviceptr>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
  return *pointer ? kCudaSuccess : kCudaErrorOutOfMemory;
}
inline CUresult release(CUdeviceptr pointer) {
  std::free(reinterpret_cast<void*>(pointer));
  return kCudaSuccess;
}
inline CUresult copy_in(CUdeviceptr target, const void* source, size_t bytes) {
  std::memcpy(reinterpret_cast<void*>(target), source, bytes);
  return kCudaSuccess;
}
inline CUresult copy_out(void* target, CUdeviceptr source, size_t bytes) {
  std::memcpy(target, reinterpret_cast<const void*>(source), bytes);
  return kCudaSuccess;
}

}  // namespace flash_attn::stand_in
