// The GPU that tests run on, through the library's own table of the driver: its context, streams, and copies that have arrived.
#pragma once

#include "cuda/driver.h"
#include "tests/cases.h"

#include <cstddef>

namespace flash_attn::test {

// Ends the program, saying what failed, unless the driver succeeded.
void require(cuda::CUresult result, const char* action);

// The driver and a context on the first GPU, current on this thread. Ends the program with 77 (skipped), saying why, if there is
// none.
const cuda::Driver& require_gpu();

// The kernel that FLASH_ATTN_TEST_KERNEL forces in every test, or null.
const char* forced_kernel();

// Counts towards the coverage table (support/coverage.h) that the kernel forced in a description ran the case, or refused it.
void count_on_device(const CaseSpec& spec, fa_dtype dtype, const fa_attention_desc& desc, bool ran);

// Makes that context current on another thread.
void require_gpu_on_this_thread();

// Returns when the bytes have arrived: the driver's own copy may return while they are on their way, and the tests' streams do not
// wait for it.
void copy_to_device(cuda::CUdeviceptr to, const void* from, size_t bytes);

// A stream of its own for each test.
class DeviceStream {
 public:
  DeviceStream();
  ~DeviceStream();
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;
  cuda::CUstream get() const { return stream_; }
  void synchronize() const;

 private:
  cuda::CUstream stream_ = nullptr;
};

}  // namespace flash_attn::test
