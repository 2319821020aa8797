// See known_devices.h. Multiprocessors, shared memory, L2, boost clock and memory bandwidth as NVIDIA publishes them.
#include "cuda/known_devices.h"

#include "cuda/jit/source.h"

namespace flash_attn::cuda {
namespace {

constexpr int kKb = 1024, kMhz = 1000;
constexpr long long kMb = 1 << 20, kGb = 1'000'000'000;

constexpr DeviceInfo kKnown[] = {
    {0, 80, 108, 163 * kKb, 164 * kKb, 40 * kMb, 1410 * kMhz, 2039 * kGb},    // A100
    {0, 80, 56, 163 * kKb, 164 * kKb, 24 * kMb, 1440 * kMhz, 933 * kGb},      // A30
    {0, 86, 84, 99 * kKb, 100 * kKb, 6 * kMb, 1740 * kMhz, 696 * kGb},        // A40, RTX 3090
    {0, 86, 10, 99 * kKb, 100 * kKb, 2 * kMb, 1770 * kMhz, 200 * kGb},        // A2
    {0, 87, 16, 163 * kKb, 164 * kKb, 4 * kMb, 1300 * kMhz, 204 * kGb},       // Orin
    {0, 89, 142, 99 * kKb, 100 * kKb, 96 * kMb, 2520 * kMhz, 864 * kGb},      // L40S
    {0, 89, 58, 99 * kKb, 100 * kKb, 48 * kMb, 2040 * kMhz, 300 * kGb},       // L4
    {0, 90, 132, 227 * kKb, 228 * kKb, 50 * kMb, 1830 * kMhz, 4800 * kGb},    // H200, H100 SXM
    {0, 90, 114, 227 * kKb, 228 * kKb, 50 * kMb, 1755 * kMhz, 2000 * kGb},    // H100 PCIe
    {0, 100, 148, 227 * kKb, 228 * kKb, 126 * kMb, 1850 * kMhz, 8000 * kGb},  // B200
    {0, 103, 148, 227 * kKb, 228 * kKb, 126 * kMb, 1920 * kMhz, 8000 * kGb},  // B300
    {0, 120, 170, 99 * kKb, 100 * kKb, 96 * kMb, 2407 * kMhz, 1792 * kGb},    // RTX 5090
    {0, 120, 70, 99 * kKb, 100 * kKb, 48 * kMb, 2450 * kMhz, 896 * kGb},      // RTX 5070 Ti
};

}  // namespace

std::vector<DeviceInfo> known_devices(const std::string& arch) {
  std::vector<DeviceInfo> devices;
  for (const DeviceInfo& device : kKnown)
    if (arch_name(device.compute_capability) == arch) devices.push_back(device);
  return devices;
}

std::string known_architectures() {
  std::string names;
  int last = 0;
  for (const DeviceInfo& device : kKnown) {
    if (device.compute_capability == last) continue;
    last = device.compute_capability;
    names += (names.empty() ? "" : ", ") + arch_name(last);
  }
  return names;
}

}  // namespace flash_attn::cuda
