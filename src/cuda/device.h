// What planning needs to know of a GPU, as plain numbers: a plan is a function of a Problem and a DeviceInfo, so tests may plan for
// devices that are not there.
#pragma once

#include "core/status.h"

#include <string>

namespace flash_attn::cuda {

struct DeviceInfo {
  int index = 0;
  int compute_capability = 0;  // 90 for 9.0
  int multiprocessors = 0;
  int shared_bytes = 0;         // most that one block may use
  int shared_bytes_per_sm = 0;  // for all blocks together, the driver's share included
  long long l2_bytes = 0;
  int clock_khz = 0;               // 0: unknown, as below; only expectations are made of these
  long long memory_bandwidth = 0;  // bytes a second

  bool operator==(const DeviceInfo&) const = default;
};

// The device of an index; -1 is the current context's, or the first if none is current. FLASH_ATTN_CUDA_ASSUME, read at the first
// call, plans for a known device of an architecture ("sm_90a"), without asking a driver.
Status get_device(int index, DeviceInfo* info);

// Lowers the shared memory that plans may use, process-wide, to try a smaller device's variants; 0: all that there is. Until it is
// called, FLASH_ATTN_CUDA_SHARED_KB says, read at the first call of get_device.
void limit_shared_memory(int bytes);

// "key: value" lines for a person.
Status device_text(int index, std::string* text);

}  // namespace flash_attn::cuda
