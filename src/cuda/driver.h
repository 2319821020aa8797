// The NVIDIA driver, opened at run time: a table of the driver functions that the library calls, and the translation of their
// results into Status. The only file besides nvrtc.cpp that opens a library; it knows nothing of kernels or problems.
#pragma once

#include "core/status.h"
#include "cuda/driver_types.h"

namespace flash_attn::cuda {

// Each name with its parameters; all return CUresult. They have the meaning that CUDA 12.0 gave them, whatever the driver's own
// version.
#define FA_CUDA_FUNCTIONS(X)                                                                                            \
  X(cuInit, (unsigned int))                                                                                             \
  X(cuGetErrorString, (CUresult, const char**))                                                                         \
  X(cuGetErrorName, (CUresult, const char**))                                                                           \
  X(cuDeviceGet, (CUdevice*, int))                                                                                      \
  X(cuDeviceGetCount, (int*))                                                                                           \
  X(cuDeviceGetName, (char*, int, CUdevice))                                                                            \
  X(cuDeviceGetAttribute, (int*, int, CUdevice))                                                                        \
  X(cuDeviceTotalMem, (size_t*, CUdevice))                                                                              \
  X(cuDevicePrimaryCtxRetain, (CUcontext*, CUdevice))                                                                   \
  X(cuDevicePrimaryCtxRelease, (CUdevice))                                                                              \
  X(cuCtxGetCurrent, (CUcontext*))                                                                                      \
  X(cuCtxSetCurrent, (CUcontext))                                                                                       \
  X(cuCtxPushCurrent, (CUcontext))                                                                                      \
  X(cuCtxPopCurrent, (CUcontext*))                                                                                      \
  X(cuCtxGetDevice, (CUdevice*))                                                                                        \
  X(cuCtxSynchronize, ())                                                                                               \
  X(cuLibraryLoadData, (CUlibrary*, const void*, int*, void**, unsigned int, int*, void**, unsigned int))               \
  X(cuLibraryUnload, (CUlibrary))                                                                                       \
  X(cuLibraryGetKernel, (CUkernel*, CUlibrary, const char*))                                                            \
  X(cuKernelGetFunction, (CUfunction*, CUkernel))                                                                       \
  X(cuKernelGetAttribute, (int*, int, CUkernel, CUdevice))                                                              \
  X(cuKernelSetAttribute, (int, int, CUkernel, CUdevice))                                                               \
  X(cuFuncGetAttribute, (int*, int, CUfunction))                                                                        \
  X(cuFuncSetAttribute, (CUfunction, int, int))                                                                         \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, (int*, CUfunction, int, size_t))                                       \
  X(cuLaunchKernelEx, (const CUlaunchConfig*, CUfunction, void**, void**))                                              \
  X(cuTensorMapEncodeTiled, (CUtensorMap*, int, unsigned int, void*, const uint64_t*, const uint64_t*, const uint32_t*, \
                             const uint32_t*, int, int, int, int))                                                      \
  X(cuTensorMapReplaceAddress, (CUtensorMap*, void*))                                                                   \
  X(cuPointerGetAttribute, (void*, int, CUdeviceptr))                                                                   \
  X(cuMemAlloc, (CUdeviceptr*, size_t))                                                                                 \
  X(cuMemFree, (CUdeviceptr))                                                                                           \
  X(cuMemAllocHost, (void**, size_t))                                                                                   \
  X(cuMemFreeHost, (void*))                                                                                             \
  X(cuMemGetInfo, (size_t*, size_t*))                                                                                   \
  X(cuMemcpyHtoD, (CUdeviceptr, const void*, size_t))                                                                   \
  X(cuMemcpyDtoH, (void*, CUdeviceptr, size_t))                                                                         \
  X(cuMemcpyHtoDAsync, (CUdeviceptr, const void*, size_t, CUstream))                                                    \
  X(cuMemcpyDtoHAsync, (void*, CUdeviceptr, size_t, CUstream))                                                          \
  X(cuMemcpyDtoDAsync, (CUdeviceptr, CUdeviceptr, size_t, CUstream))                                                    \
  X(cuMemsetD8Async, (CUdeviceptr, unsigned char, size_t, CUstream))                                                    \
  X(cuMemsetD32Async, (CUdeviceptr, unsigned int, size_t, CUstream))                                                    \
  X(cuStreamCreate, (CUstream*, unsigned int))                                                                          \
  X(cuStreamDestroy, (CUstream))                                                                                        \
  X(cuStreamSynchronize, (CUstream))                                                                                    \
  X(cuStreamWaitEvent, (CUstream, CUevent, unsigned int))                                                               \
  X(cuStreamGetCtx, (CUstream, CUcontext*))                                                                             \
  X(cuStreamIsCapturing, (CUstream, int*))                                                                              \
  X(cuStreamBeginCapture, (CUstream, int))                                                                              \
  X(cuStreamEndCapture, (CUstream, CUgraph*))                                                                           \
  X(cuGraphInstantiateWithFlags, (CUgraphExec*, CUgraph, unsigned long long))                                           \
  X(cuGraphLaunch, (CUgraphExec, CUstream))                                                                             \
  X(cuGraphExecDestroy, (CUgraphExec))                                                                                  \
  X(cuGraphDestroy, (CUgraph))                                                                                          \
  X(cuEventCreate, (CUevent*, unsigned int))                                                                            \
  X(cuEventDestroy, (CUevent))                                                                                          \
  X(cuEventRecord, (CUevent, CUstream))                                                                                 \
  X(cuEventSynchronize, (CUevent))                                                                                      \
  X(cuEventElapsedTime, (float*, CUevent, CUevent))

struct Driver {
  int version = 0;  // 12040: the newest CUDA that the driver serves is 12.4
#define FA_CUDA_POINTER(name, parameters) CUresult(*name) parameters = nullptr;
  FA_CUDA_FUNCTIONS(FA_CUDA_POINTER)
#undef FA_CUDA_POINTER
};

// Opens the driver at the first call; later calls return the same table or the same failure. Does not need a GPU to succeed in
// opening, but initialises the driver, which fails where there is none.
Status get_driver(const Driver** driver);

// The version of the driver if one can be used, else 0; never an error.
int driver_version();

// ok for kCudaSuccess, else FA_STATUS_DEVICE_ERROR with the driver's own words: "launching sm80_fwd failed:
// CUDA_ERROR_LAUNCH_FAILED (unspecified launch failure, 719)". `action` says what was tried, "launching sm80_fwd".
Status driver_status(const Driver& driver, CUresult result, const char* action);

}  // namespace flash_attn::cuda

// Calls a driver function and returns early, with what failed, from a function that returns Status.
#define FA_CUDA_TRY(driver, call, action)                                                                        \
  do {                                                                                                           \
    if (const ::flash_attn::cuda::CUresult result_ = (driver).call; result_ != ::flash_attn::cuda::kCudaSuccess) \
      return ::flash_attn::cuda::driver_status((driver), result_, (action));                                     \
  } while (0)
