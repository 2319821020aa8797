// What planning tests share: kinds of devices that need not be there, and the Problem of a description as a GPU would get it.
#pragma once

#include "core/problem.h"
#include "cuda/device.h"

#include <gtest/gtest.h>

namespace flash_attn::test {

constexpr int kKb = 1024;
constexpr cuda::DeviceInfo kDevices[] = {{0, 80, 108, 163 * kKb, 164 * kKb, 40ll << 20},
                                         {0, 86, 84, 99 * kKb, 100 * kKb, 6ll << 20},
                                         {0, 90, 132, 227 * kKb, 228 * kKb, 50ll << 20}};

inline Problem problem_of(const fa_attention_desc& described) {
  fa_attention_desc desc = described;
  desc.device_type = FA_DEVICE_CUDA;
  desc.num_threads = 0;
  Problem problem;
  const Status status = make_problem(desc, &problem);
  EXPECT_TRUE(status.ok()) << status.message();
  return problem;
}

}  // namespace flash_attn::test
