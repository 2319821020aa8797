// A C++ program as a user of the installed library writes it: plan once, run twice, read an error.
#include <flash_attn/flash_attn.h>

#include <cstdio>
#include <string>
#include <vector>

int main() {
  const fa_tensor_desc rows = {FA_DTYPE_F32, 4, {1, 3, 2, 4}, {24, 8, 4, 1}, 0};
  const std::vector<float> q(24, 0.5f), k(24, 0.25f), v(24, 2.0f);
  std::vector<float> o(24);

  fa_attention_desc desc;
  fa_attention_args args;
  fa_attention_desc_init(&desc);
  fa_attention_args_init(&args);
  desc.q = desc.k = desc.v = desc.o = rows;
  desc.mask_kind = FA_MASK_CAUSAL;
  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  args.o = o.data();

  for (int run = 0; run < 2; ++run) {
    if (fa_attention(&desc, &args, nullptr) != FA_STATUS_OK) {
      std::printf("refused: %s\n", fa_last_error());
      return 1;
    }
  }
  for (const float value : o) {
    if (value != 2.0f) return 1;  // all values are equal, and so is their average
  }
  desc.window_left = -7;
  if (fa_validate(&desc) != FA_STATUS_INVALID_ARGUMENT) return 1;
  std::printf("as it should, it says: %s\n", std::string(fa_last_error()).c_str());
  return 0;
}
