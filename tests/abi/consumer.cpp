// A C++17 program over flash_attn.hpp, built by tests/abi/consumers.py with every compiler at hand and both settings of libstdc++'s
// string ABI against the one library: strings and exceptions must stay on the caller's side.
#include "flash_attn/dlpack.hpp"
#include "flash_attn/flash_attn.hpp"

#include <cstdio>
#include <string>
#include <vector>

namespace {

int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("failed: %s (last error: %s)\n", what, fa_last_error());
  ++failures;
}

void run_one_key() {
  std::vector<float> q = {1, 2}, k = {3, 4}, v = {5, 6}, o(2), lse(1);
  flash_attn::Options options;
  options.causal = true;
  options.lse = flash_attn::Tensor(lse.data(), {1, 1, 1});
  flash_attn::attention(flash_attn::Tensor(q.data(), {1, 1, 1, 2}), flash_attn::Tensor(k.data(), {1, 1, 1, 2}),
                        flash_attn::Tensor(v.data(), {1, 1, 1, 2}), flash_attn::Tensor(o.data(), {1, 1, 1, 2}), options);
  expect(o[0] == 5 && o[1] == 6, "the value of the only key");
  expect(lse[0] > 7.7f && lse[0] < 7.8f, "11 / sqrt(2) as log-sum-exp");
}

void refuse() {
  flash_attn::Desc desc;
  desc.window_left = -7;
  try {
    const flash_attn::Plan plan(desc);
    expect(false, "an exception");
  } catch (const flash_attn::Error& error) {
    expect(error.status() == FA_STATUS_INVALID_ARGUMENT, "the status");
    expect(std::string(error.what()) == "window_left is -7 but must be -1 or more", "the message");
  }
}

}  // namespace

int main() {
  run_one_key();
  refuse();
  flash_attn::Desc desc;
  desc.q = desc.k = desc.v = desc.o = flash_attn::tensor(FA_DTYPE_F32, {1, 1, 1, 2});
  expect(flash_attn::explain(desc).find("kernel: cpu/") != std::string::npos, "explain");
  expect(!flash_attn::cpu_isas().empty(), "cpu_isas");
  return failures == 0 ? 0 : 1;
}
