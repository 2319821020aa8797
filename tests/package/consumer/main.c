/* A C program as a user of the installed library writes it: one attention call, checked against arithmetic done by hand. */
#include <flash_attn/flash_attn.h>

#include <math.h>
#include <stdio.h>

static fa_tensor_desc row_of(int64_t rows, int64_t dim) {
  fa_tensor_desc tensor = {FA_DTYPE_F32, 4, {1, rows, 1, dim}, {rows * dim, dim, dim, 1}, 0};
  return tensor;
}

int main(void) {
  const float q[2] = {1, 0};
  const float k[4] = {0, 0, 1, 0};
  const float v[4] = {1, 2, 3, 4};
  float o[2] = {0, 0};
  const double weight = exp(1.0) / (1.0 + exp(1.0)); /* of the second key */

  fa_attention_desc desc;
  fa_attention_args args;
  fa_attention_desc_init(&desc);
  fa_attention_args_init(&args);
  desc.q = row_of(1, 2);
  desc.k = desc.v = row_of(2, 2);
  desc.o = row_of(1, 2);
  desc.scale = 1;
  args.q = q;
  args.k = k;
  args.v = v;
  args.o = o;
  if (fa_attention(&desc, &args, NULL) != FA_STATUS_OK) {
    printf("refused: %s\n", fa_last_error());
    return 1;
  }
  printf("flash-attn-lib %u: o = %g %g\n", (unsigned)fa_version(), o[0], o[1]);
  return fabs(o[0] - (1 + 2 * weight)) < 1e-5 && fabs(o[1] - (2 + 2 * weight)) < 1e-5 ? 0 : 1;
}
