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
#include <cudaTypedefs.h>

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

// The number and the sizes of parameters, of each function as it was in the newest CUDA up to 12.0: that is what the driver is
// asked for.
template <class Result, class... Parameters>
constexpr unsigned long long sizes(Result (*)(Parameters...)) {
  unsigned long long code = 1;
  ((code = code * 19 + sizeof(Parameters)), ...);
  return code;
}
#define SAME_PARAMETERS(name, version) \
  static_assert(sizes(static_cast<PFN_##name##_v##version>(nullptr)) == sizes(static_cast<declared::name##_type>(nullptr)), #name)

SAME_PARAMETERS(cuInit, 2000);
SAME_PARAMETERS(cuGetErrorString, 6000);
SAME_PARAMETERS(cuGetErrorName, 6000);
SAME_PARAMETERS(cuDeviceGet, 2000);
SAME_PARAMETERS(cuDeviceGetCount, 2000);
SAME_PARAMETERS(cuDeviceGetName, 2000);
SAME_PARAMETERS(cuDeviceGetAttribute, 2000);
SAME_PARAMETERS(cuDeviceTotalMem, 3020);
SAME_PARAMETERS(cuDevicePrimaryCtxRetain, 7000);
SAME_PARAMETERS(cuDevicePrimaryCtxRelease, 11000);
SAME_PARAMETERS(cuCtxGetCurrent, 4000);
SAME_PARAMETERS(cuCtxSetCurrent, 4000);
SAME_PARAMETERS(cuCtxPushCurrent, 4000);
SAME_PARAMETERS(cuCtxPopCurrent, 4000);
SAME_PARAMETERS(cuCtxGetDevice, 2000);
SAME_PARAMETERS(cuCtxSynchronize, 2000);
SAME_PARAMETERS(cuLibraryLoadData, 12000);
SAME_PARAMETERS(cuLibraryUnload, 12000);
SAME_PARAMETERS(cuLibraryGetKernel, 12000);
SAME_PARAMETERS(cuKernelGetFunction, 12000);
SAME_PARAMETERS(cuKernelGetAttribute, 12000);
SAME_PARAMETERS(cuKernelSetAttribute, 12000);
SAME_PARAMETERS(cuFuncGetAttribute, 2020);
SAME_PARAMETERS(cuFuncSetAttribute, 9000);
SAME_PARAMETERS(cuOccupancyMaxActiveBlocksPerMultiprocessor, 6050);
SAME_PARAMETERS(cuLaunchKernelEx, 11060);
SAME_PARAMETERS(cuTensorMapEncodeTiled, 12000);
SAME_PARAMETERS(cuTensorMapReplaceAddress, 12000);
SAME_PARAMETERS(cuPointerGetAttribute, 4000);
SAME_PARAMETERS(cuMemAlloc, 3020);
SAME_PARAMETERS(cuMemFree, 3020);
SAME_PARAMETERS(cuMemAllocHost, 3020);
SAME_PARAMETERS(cuMemFreeHost, 2000);
SAME_PARAMETERS(cuMemGetInfo, 3020);
SAME_PARAMETERS(cuMemcpyHtoD, 3020);
SAME_PARAMETERS(cuMemcpyDtoH, 3020);
SAME_PARAMETERS(cuMemcpyHtoDAsync, 3020);
SAME_PARAMETERS(cuMemcpyDtoHAsync, 3020);
SAME_PARAMETERS(cuMemcpyDtoDAsync, 3020);
SAME_PARAMETERS(cuMemsetD8Async, 3020);
SAME_PARAMETERS(cuMemsetD32Async, 3020);
SAME_PARAMETERS(cuStreamCreate, 2000);
SAME_PARAMETERS(cuStreamDestroy, 4000);
SAME_PARAMETERS(cuStreamSynchronize, 2000);
SAME_PARAMETERS(cuStreamWaitEvent, 3020);
SAME_PARAMETERS(cuStreamGetCtx, 9020);
SAME_PARAMETERS(cuStreamIsCapturing, 10000);
SAME_PARAMETERS(cuStreamBeginCapture, 10010);
SAME_PARAMETERS(cuStreamEndCapture, 10000);
SAME_PARAMETERS(cuGraphInstantiateWithFlags, 11040);
SAME_PARAMETERS(cuGraphLaunch, 10000);
SAME_PARAMETERS(cuGraphExecDestroy, 10000);
SAME_PARAMETERS(cuGraphDestroy, 10000);
SAME_PARAMETERS(cuEventCreate, 2000);
SAME_PARAMETERS(cuEventDestroy, 4000);
SAME_PARAMETERS(cuEventRecord, 2000);
SAME_PARAMETERS(cuEventSynchronize, 2000);
SAME_PARAMETERS(cuEventElapsedTime, 2000);

// A new function belongs in this list.
constexpr int kChecked = 58;
#define FA_COUNT(name, parameters) +1
static_assert(FA_CUDA_FUNCTIONS(FA_COUNT) == kChecked);
#undef FA_COUNT

int main() {
  std::puts("driver_types.h agrees with cuda.h");
  return 0;
}
