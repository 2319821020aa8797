// A TestProblem on a GPU: its buffers in one block of device memory with poison between them, its pointers moved there, and its
// outputs brought back. Uses the driver through the library's own table; knows nothing of kernels.
#pragma once

#include "cuda/driver.h"
#include "tests/support/problem_builder.h"

#include <string>
#include <vector>

namespace flash_attn::test {

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

enum class Placement {
  aligned,   // every buffer begins at a multiple of 256 bytes, and the description promises what follows from it
  unaligned  // at odd multiples of its element size; nothing is promised
};

class DeviceProblem {
 public:
  DeviceProblem(const TestProblem& problem, Placement placement, const std::string& kernel = "");
  ~DeviceProblem();
  DeviceProblem(const DeviceProblem&) = delete;
  DeviceProblem& operator=(const DeviceProblem&) = delete;

  const fa_attention_desc& desc() const { return desc_; }
  fa_attention_desc& mutable_desc() { return desc_; }
  const fa_attention_args& args() const { return args_; }
  fa_attention_args& mutable_args() { return args_; }

  // Writes the initial contents, the outputs' sentinel included, to the device again.
  void upload();
  // Copies o and lse into the problem's own buffers, and looks whether anything but o, lse and the scratch changed; empty if not.
  std::string download(TestProblem* problem);

  // What the memory behind a device pointer holds after upload().
  const void* original(const void* device_pointer) const;

  // Scratch of `bytes`, full of 0xFF, between guards.
  void* scratch(size_t bytes);
  // Uninitialised memory for a plan's state; null for none.
  void* state(size_t bytes);

 private:
  struct Part {
    const GuardedBuffer* source;
    size_t at;
  };
  size_t book(size_t bytes, size_t skew);
  void place(const GuardedBuffer& buffer, size_t element);
  template <class T>
  void move(T*& pointer) const;
  void move_all(const TestProblem& problem);
  void promise();

  const cuda::Driver& driver_;
  Placement placement_;
  fa_attention_desc desc_;
  fa_attention_args args_;
  std::vector<Part> parts_;
  std::vector<unsigned char> image_;  // what the device memory holds before a run
  size_t end_ = 0;
  cuda::CUdeviceptr memory_ = 0, scratch_ = 0, state_ = 0;
  size_t scratch_bytes_ = 0;
};

}  // namespace flash_attn::test
