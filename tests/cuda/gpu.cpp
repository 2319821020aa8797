// See gpu.h.
#include "tests/cuda/gpu.h"

#include "cuda/device.h"
#include "tests/support/coverage.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace flash_attn::test {
namespace {

cuda::CUcontext gpu_context = nullptr;

}  // namespace

void require(cuda::CUresult result, const char* action) {
  if (result == cuda::kCudaSuccess) return;
  const cuda::Driver* driver = nullptr;
  if (cuda::get_driver(&driver).ok()) std::fprintf(stderr, "%s\n", cuda::driver_status(*driver, result, action).message().c_str());
  std::exit(1);
}

const cuda::Driver& require_gpu() {
  static const cuda::Driver& driver = []() -> const cuda::Driver& {
    const cuda::Driver* found = nullptr;
    if (const Status status = cuda::get_driver(&found); !status.ok()) {
      std::printf("skipped: %s\n", status.message().c_str());
      std::exit(77);
    }
    cuda::CUdevice device = 0;
    require(found->cuDeviceGet(&device, 0), "finding a GPU");
    require(found->cuDevicePrimaryCtxRetain(&gpu_context, device), "opening a context");
    require(found->cuCtxSetCurrent(gpu_context), "making the context current");
    return *found;
  }();
  return driver;
}

const char* forced_kernel() {
  const char* const name = std::getenv("FLASH_ATTN_TEST_KERNEL");
  return name != nullptr && *name != 0 ? name : nullptr;
}

void count_on_device(const CaseSpec& spec, fa_dtype dtype, const fa_attention_desc& desc, bool ran) {
  if (desc.kernel == nullptr) return;
  static const std::string architecture = [] {
    cuda::DeviceInfo info;
    return cuda::get_device(-1, &info).ok() ? "sm_" + std::to_string(info.compute_capability) : std::string();
  }();
  (ran ? count_run : count_refusal)(spec, dtype, desc.kernel, architecture);
}

void require_gpu_on_this_thread() { require(require_gpu().cuCtxSetCurrent(gpu_context), "making the context current"); }

void copy_to_device(cuda::CUdeviceptr to, const void* from, size_t bytes) {
  const cuda::Driver& driver = require_gpu();
  require(driver.cuMemcpyHtoD(to, from, bytes), "copying to the device");
  require(driver.cuStreamSynchronize(nullptr), "copying to the device");
}

DeviceStream::DeviceStream() { require(require_gpu().cuStreamCreate(&stream_, cuda::kStreamNonBlocking), "creating a stream"); }
DeviceStream::~DeviceStream() { require_gpu().cuStreamDestroy(stream_); }
void DeviceStream::synchronize() const { require(require_gpu().cuStreamSynchronize(stream_), "running"); }

}  // namespace flash_attn::test
