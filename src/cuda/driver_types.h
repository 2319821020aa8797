// The part of the CUDA driver's binary interface that this library uses, declared here so that building needs no CUDA header. Names
// are the driver's own; values and layouts are checked against cuda.h by tests/cuda/jit/layout_test.cpp where that header exists.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flash_attn::cuda {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUlibrary = struct CUlib_st*;
using CUkernel = struct CUkern_st*;
using CUfunction = struct CUfunc_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphExec = struct CUgraphExec_st*;

constexpr CUresult kCudaSuccess = 0;
constexpr CUresult kCudaErrorInvalidValue = 1;
constexpr CUresult kCudaErrorOutOfMemory = 2;
constexpr CUresult kCudaErrorNotInitialized = 3;
constexpr CUresult kCudaErrorNoDevice = 100;
constexpr CUresult kCudaErrorInvalidImage = 200;
constexpr CUresult kCudaErrorInvalidContext = 201;
constexpr CUresult kCudaErrorNoBinaryForGpu = 209;
constexpr CUresult kCudaErrorUnsupportedPtxVersion = 222;
constexpr CUresult kCudaErrorNotFound = 500;

// CUdevice_attribute
constexpr int kMaxThreadsPerBlock = 1;
constexpr int kWarpSize = 10;
constexpr int kMaxRegistersPerBlock = 12;
constexpr int kClockRateKhz = 13;
constexpr int kMultiprocessorCount = 16;
constexpr int kMemoryClockRateKhz = 36;
constexpr int kGlobalMemoryBusWidth = 37;
constexpr int kL2CacheSize = 38;
constexpr int kMaxThreadsPerMultiprocessor = 39;
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;
constexpr int kMaxSharedMemoryPerMultiprocessor = 81;
constexpr int kMaxRegistersPerMultiprocessor = 82;
constexpr int kMaxSharedMemoryPerBlockOptin = 97;
constexpr int kMaxBlocksPerMultiprocessor = 106;
constexpr int kReservedSharedMemoryPerBlock = 111;

// CUfunction_attribute
constexpr int kFunctionSharedSizeBytes = 1;
constexpr int kFunctionLocalSizeBytes = 3;
constexpr int kFunctionNumRegs = 4;
constexpr int kFunctionMaxDynamicSharedSizeBytes = 8;
constexpr int kFunctionPreferredSharedMemoryCarveout = 9;
constexpr int kFunctionNonPortableClusterSizeAllowed = 14;

// CUpointer_attribute
constexpr int kPointerMemoryType = 2;
constexpr int kPointerDeviceOrdinal = 9;
constexpr int kMemoryTypeHost = 1;
constexpr int kMemoryTypeDevice = 2;

// CUlaunchAttributeID
constexpr int kLaunchClusterDimension = 4;
constexpr int kLaunchClusterSchedulingPolicy = 5;
constexpr int kLaunchProgrammaticStreamSerialization = 6;

union alignas(8) CUlaunchAttributeValue {
  char pad[64];
  struct {
    unsigned int x, y, z;
  } clusterDim;
  int clusterSchedulingPolicyPreference;
  int programmaticStreamSerializationAllowed;
};

struct CUlaunchAttribute {
  int id;
  char pad[8 - sizeof(int)];
  CUlaunchAttributeValue value;
};

struct CUlaunchConfig {
  unsigned int gridDimX, gridDimY, gridDimZ;
  unsigned int blockDimX, blockDimY, blockDimZ;
  unsigned int sharedMemBytes;
  CUstream hStream;
  CUlaunchAttribute* attrs;
  unsigned int numAttrs;
};

struct alignas(64) CUtensorMap {  // the alignment of CUDA 12; 13's own declaration asks for more than its driver does
  uint64_t opaque[16];
};

// CUtensorMapDataType, and the choices of an encoding that are used here.
constexpr int kTensorMapUint8 = 0;
constexpr int kTensorMapUint16 = 1;
constexpr int kTensorMapFloat16 = 6;
constexpr int kTensorMapFloat32 = 7;
constexpr int kTensorMapBfloat16 = 9;
constexpr int kTensorMapInterleaveNone = 0;
constexpr int kTensorMapSwizzleNone = 0;
constexpr int kTensorMapSwizzle32B = 1;
constexpr int kTensorMapSwizzle64B = 2;
constexpr int kTensorMapSwizzle128B = 3;
constexpr int kTensorMapL2PromotionNone = 0;
constexpr int kTensorMapL2Promotion128B = 2;
constexpr int kTensorMapL2Promotion256B = 3;
constexpr int kTensorMapFillZeros = 0;

// CUstreamCaptureStatus and CUstreamCaptureMode
constexpr int kCaptureNone = 0;
constexpr int kCaptureActive = 1;
constexpr int kCaptureInvalidated = 2;
constexpr int kCaptureModeThreadLocal = 1;

constexpr unsigned int kStreamNonBlocking = 1;

}  // namespace flash_attn::cuda
