// The NVIDIA driver's launch and capture functions for host_time.cpp, opened at run time: what a run launches, and launches of
// kernels that do nothing. Knows nothing of attention; the library under test has a driver table of its own.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace flash_attn::bench {

// One kernel launch of a run.
struct Launch {
  unsigned grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  unsigned shared_bytes = 0;
  size_t parameter_bytes = 0;
};

class EmptyKernels;

// Needs a current context. Every failure throws tool::Failure.
class HostDriver {
 public:
  HostDriver();
  ~HostDriver();
  HostDriver(const HostDriver&) = delete;
  HostDriver& operator=(const HostDriver&) = delete;

  void* stream() const;
  void synchronize() const;

  // What `work` launches on stream(), found by capturing it into a graph that is never run.
  std::vector<Launch> launches_of(const std::function<void()>& work) const;

  // Kernels that do nothing, with the same shapes and numbers of parameter bytes.
  std::unique_ptr<EmptyKernels> empty_kernels(const std::vector<Launch>& launches) const;

 private:
  friend class EmptyKernels;
  struct Table;
  std::unique_ptr<Table> table_;
};

class EmptyKernels {
 public:
  EmptyKernels(const HostDriver::Table& table, const std::vector<Launch>& launches);
  ~EmptyKernels();
  EmptyKernels(const EmptyKernels&) = delete;
  EmptyKernels& operator=(const EmptyKernels&) = delete;

  void launch() const;  // all of them, one after the other

 private:
  struct Kernel;
  const HostDriver::Table& table_;
  std::vector<Kernel> kernels_;
};

}  // namespace flash_attn::bench
