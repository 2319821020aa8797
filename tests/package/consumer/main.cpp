// A C++ program as a user of the installed library writes it: plan once, run twice with a workspace, catch an error.
#include <flash_attn/flash_attn.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  const std::vector<float> q(24, 0.5f), k(24, 0.25f), v(24, 2.0f);
  std::vector<float> o(24);

  flash_attn::Desc desc;
  desc.q = desc.k = desc.v = desc.o = flash_attn::tensor(FA_DTYPE_F32, {1, 3, 2, 4});
  desc.mask_kind = FA_MASK_CAUSAL;
  flash_attn::Args args;
  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  args.o = o.data();

  const flash_attn::Plan plan(desc);
  const flash_attn::HostWorkspace workspace(plan);
  for (int run = 0; run < 2; ++run) plan.run(args, workspace.get());
  for (const float value : o) {
    if (std::fabs(value - 2.0f) > 1e-6f) return 1;  // all values are equal, and so is their average
  }
  std::printf("%s\n%s", plan.kernel(), flash_attn::explain(desc).c_str());

  desc.window_left = -7;
  try {
    flash_attn::attention(desc, args);
  } catch (const flash_attn::Error& error) {
    std::printf("as it should, it says: %s\n", error.what());
    return error.status() == FA_STATUS_INVALID_ARGUMENT ? 0 : 1;
  }
  return 1;
}
