// What a GPU's ceilings make of a problem: the time below which no kernel can come. For explain; no choice depends on it.
#pragma once

#include "core/problem.h"
#include "cuda/device.h"

#include <string>

namespace flash_attn::cuda {

// Additions and multiplications, and bytes that must move, where every request has the most rows and keys.
double count_operations(const Problem& problem);
double count_bytes(const Problem& problem);

// Operations a second of the units that multiply this type, and of no other limit; 0 if the device's clock is not known.
double peak_rate(const DeviceInfo& device, DType dtype);

// One line; empty if the device's figures are not known.
std::string expectation_text(const Problem& problem, const DeviceInfo& device);

}  // namespace flash_attn::cuda
