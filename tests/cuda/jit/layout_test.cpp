// Checks driver_types.h against NVIDIA's cuda.h at compile time. Built only where that header is; the library itself never needs
// it.
#include "cuda/driver.h"

// The types of the table's functions under the names that the table has, before cuda.h makes macros of some of those.
namespace declared {
#define FA_TYPE(name, parameters) using name##_type = int(*) parameters;
using namespace flash_attn::cuda;
FA_CUDA_FUNCTIONS(FA_TYPE)
#undef FA_TYPE
}  // namespace declared

#include <cuda.h>

#include <cstdio>
#include <type_traits>

namespace ours = flash_attn::cuda;

#define SAME_VALUE(a, b) static_assert(static_cast<long long>(ours::a) == static_cast<long long>(b))
#define SAME_OFFSET(type, field) static_assert(offsetof(ours::type, field) == offsetof(::type, field))
#define SAME_SIZE(type) static_assert(sizeof(ours::type) == sizeof(::type) && alignof(ours::type) == alignof(::type))

SAME_VALUE(kCudaSuccess, CUDA_SUCCESS);
SAME_VALUE(kCudaErrorInvalidValue, CUDA_ERROR_INVALID_VALUE);
SAME_VALUE(kCudaErrorOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY);
SAME_VALUE(kCudaErrorNotInitialized, CUDA_ERROR_NOT_INITIALIZED);
SAME_VALUE(kCudaErrorNoDevice, CUDA_ERROR_NO_DEVICE);
SAME_VALUE(kCudaErrorInvalidImage, CUDA_ERROR_INVALID_IMAGE);
SAME_VALUE(kCudaErrorInvalidContext, CUDA_ERROR_INVALID_CONTEXT);
SAME_VALUE(kCudaErrorNoBinaryForGpu, CUDA_ERROR_NO_BINARY_FOR_GPU);
SAME_VALUE(kCudaErrorUnsupportedPtxVersion, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
SAME_VALUE(kCudaErrorNotFound, CUDA_ERROR_NOT_FOUND);
SAME_VALUE(kMaxThreadsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
SAME_VALUE(kWarpSize, CU_DEVICE_ATTRIBUTE_WARP_SIZE);
SAME_VALUE(kMaxRegistersPerBlock, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
SAME_VALUE(kClockRateKhz, CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
SAME_VALUE(kMultiprocessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
SAME_VALUE(kMemoryClockRateKhz, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
SAME_VALUE(kGlobalMemoryBusWidth, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
SAME_VALUE(kL2CacheSize, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
SAME_VALUE(kMaxThreadsPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
SAME_VALUE(kComputeCapabilityMajor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME_VALUE(kComputeCapabilityMinor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME_VALUE(kMaxSharedMemoryPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
SAME_VALUE(kMaxRegistersPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
SAME_VALUE(kMaxSharedMemoryPerBlockOptin, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
SAME_VALUE(kMaxBlocksPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR);
SAME_VALUE(kReservedSharedMemoryPerBlock, CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK);
SAME_VALUE(kFunctionSharedSizeBytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
SAME_VALUE(kFunctionLocalSizeBytes, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
SAME_VALUE(kFunctionNumRegs, CU_FUNC_ATTRIBUTE_NUM_REGS);
SAME_VALUE(kFunctionMaxDynamicSharedSizeBytes, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
SAME_VALUE(kFunctionPreferredSharedMemoryCarveout, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT);
SAME_VALUE(kFunctionNonPortableClusterSizeAllowed, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED);
SAME_VALUE(kPointerMemoryType, CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
SAME_VALUE(kPointerDeviceOrdinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
SAME_VALUE(kMemoryTypeHost, CU_MEMORYTYPE_HOST);
SAME_VALUE(kMemoryTypeDevice, CU_MEMORYTYPE_DEVICE);
SAME_VALUE(kLaunchClusterDimension, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
SAME_VALUE(kLaunchClusterSchedulingPolicy, CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE);
SAME_VALUE(kLaunchProgrammaticStreamSerialization, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
SAME_VALUE(kTensorMapUint8, CU_TENSOR_MAP_DATA_TYPE_UINT8);
SAME_VALUE(kTensorMapUint16, CU_TENSOR_MAP_DATA_TYPE_UINT16);
SAME_VALUE(kTensorMapFloat16, CU_TENSOR_MAP_DATA_TYPE_FLOAT16);
SAME_VALUE(kTensorMapFloat32, CU_TENSOR_MAP_DATA_TYPE_FLOAT32);
SAME_VALUE(kTensorMapBfloat16, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
SAME_VALUE(kTensorMapInterleaveNone, CU_TENSOR_MAP_INTERLEAVE_NONE);
SAME_VALUE(kTensorMapSwizzleNone, CU_TENSOR_MAP_SWIZZLE_NONE);
SAME_VALUE(kTensorMapSwizzle32B, CU_TENSOR_MAP_SWIZZLE_32B);
SAME_VALUE(kTensorMapSwizzle64B, CU_TENSOR_MAP_SWIZZLE_64B);
SAME_VALUE(kTensorMapSwizzle128B, CU_TENSOR_MAP_SWIZZLE_128B);
SAME_VALUE(kTensorMapL2PromotionNone, CU_TENSOR_MAP_L2_PROMOTION_NONE);
SAME_VALUE(kTensorMapL2Promotion128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B);
SAME_VALUE(kTensorMapL2Promotion256B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
SAME_VALUE(kTensorMapFillZeros, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
SAME_VALUE(kCaptureNone, CU_STREAM_CAPTURE_STATUS_NONE);
SAME_VALUE(kCaptureActive, CU_STREAM_CAPTURE_STATUS_ACTIVE);
SAME_VALUE(kCaptureInvalidated, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
SAME_VALUE(kCaptureModeThreadLocal, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
SAME_VALUE(kStreamNonBlocking, CU_STREAM_NON_BLOCKING);

static_assert(sizeof(ours::CUtensorMap) == sizeof(::CUtensorMap) && alignof(::CUtensorMap) % alignof(ours::CUtensorMap) == 0);
SAME_SIZE(CUlaunchConfig);
SAME_SIZE(CUlaunchAttribute);
SAME_OFFSET(CUlaunchAttribute, id);
SAME_OFFSET(CUlaunchAttribute, value);
SAME_OFFSET(CUlaunchConfig, gridDimX);
SAME_OFFSET(CUlaunchConfig, blockDimX);
SAME_OFFSET(CUlaunchConfig, sharedMemBytes);
SAME_OFFSET(CUlaunchConfig, hStream);
SAME_OFFSET(CUlaunchConfig, attrs);
SAME_OFFSET(CUlaunchConfig, numAttrs);
static_assert(sizeof(ours::CUdeviceptr) == sizeof(::CUdeviceptr) && sizeof(ours::CUdevice) == sizeof(::CUdevice));

// The number and the sizes of parameters, where cuda.h's name has still the meaning of CUDA 12.0.
template <class Result, class... Parameters>
constexpr unsigned long long sizes(Result (*)(Parameters...)) {
  unsigned long long code = 1;
  ((code = code * 19 + sizeof(Parameters)), ...);
  return code;
}
#define SAME_PARAMETERS(name) static_assert(sizes(&::name) == sizes(static_cast<declared::name##_type>(nullptr)), #name)

SAME_PARAMETERS(cuInit);
SAME_PARAMETERS(cuDeviceGetAttribute);
SAME_PARAMETERS(cuDeviceGetName);
SAME_PARAMETERS(cuDeviceTotalMem);
SAME_PARAMETERS(cuDevicePrimaryCtxRetain);
SAME_PARAMETERS(cuLibraryLoadData);
SAME_PARAMETERS(cuLibraryGetKernel);
SAME_PARAMETERS(cuKernelGetFunction);
SAME_PARAMETERS(cuKernelGetAttribute);
SAME_PARAMETERS(cuKernelSetAttribute);
SAME_PARAMETERS(cuFuncGetAttribute);
SAME_PARAMETERS(cuFuncSetAttribute);
SAME_PARAMETERS(cuOccupancyMaxActiveBlocksPerMultiprocessor);
SAME_PARAMETERS(cuLaunchKernelEx);
SAME_PARAMETERS(cuTensorMapReplaceAddress);
SAME_PARAMETERS(cuPointerGetAttribute);
SAME_PARAMETERS(cuMemAlloc);
SAME_PARAMETERS(cuMemAllocHost);
SAME_PARAMETERS(cuMemGetInfo);
SAME_PARAMETERS(cuMemcpyHtoD);
SAME_PARAMETERS(cuMemcpyDtoH);
SAME_PARAMETERS(cuMemcpyHtoDAsync);
SAME_PARAMETERS(cuMemcpyDtoHAsync);
SAME_PARAMETERS(cuMemcpyDtoDAsync);
SAME_PARAMETERS(cuMemsetD8Async);
SAME_PARAMETERS(cuMemsetD32Async);
SAME_PARAMETERS(cuStreamCreate);
SAME_PARAMETERS(cuStreamWaitEvent);
SAME_PARAMETERS(cuStreamGetCtx);
SAME_PARAMETERS(cuStreamIsCapturing);
SAME_PARAMETERS(cuStreamBeginCapture);
SAME_PARAMETERS(cuStreamEndCapture);
SAME_PARAMETERS(cuGraphInstantiate);
SAME_PARAMETERS(cuGraphLaunch);
SAME_PARAMETERS(cuEventCreate);
SAME_PARAMETERS(cuEventRecord);
SAME_PARAMETERS(cuEventElapsedTime);

int main() {
  std::puts("driver_types.h agrees with cuda.h");
  return 0;
}
