/* A C99 program that uses most of the header, built by tests/abi/consumers.py with every compiler at hand against the one library.
 */
#include "flash_attn/flash_attn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void expect(int condition, const char* what) {
  if (condition) return;
  printf("failed: %s (last error: %s)\n", what, fa_last_error());
  ++failures;
}

static fa_tensor_desc compact(fa_dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d) {
  fa_tensor_desc tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.dtype = dtype;
  tensor.rank = 4;
  tensor.shape[0] = a;
  tensor.shape[1] = b;
  tensor.shape[2] = c;
  tensor.shape[3] = d;
  tensor.stride[0] = b * c * d;
  tensor.stride[1] = c * d;
  tensor.stride[2] = d;
  tensor.stride[3] = 1;
  return tensor;
}

static void serial_for(void* user, int64_t count, fa_task_fn task, void* context) {
  int64_t i;
  ++*(int*)user;
  for (i = 0; i < count; ++i) task(context, i);
}

/* One query row that sees one key: the output is that key's value. */
static void run_one_key(const fa_attention_desc* desc) {
  float q[2] = {1, 2}, k[2] = {3, 4}, v[2] = {5, 6}, o[2] = {0, 0};
  size_t scratch_bytes = 0, state_bytes = 0;
  fa_plan* plan = NULL;
  fa_attention_args args;
  fa_workspace workspace;
  void *scratch = NULL, *state = NULL;

  expect(fa_plan_create(desc, &plan) == FA_STATUS_OK, "fa_plan_create");
  if (plan == NULL) return;
  expect(strncmp(fa_plan_kernel(plan), "cpu/", 4) == 0, "fa_plan_kernel");
  expect(fa_plan_workspace(plan, &scratch_bytes, &state_bytes) == FA_STATUS_OK, "fa_plan_workspace");
  expect(fa_attention_args_init(&args) == FA_STATUS_OK, "fa_attention_args_init");
  expect(fa_workspace_init(&workspace) == FA_STATUS_OK, "fa_workspace_init");
  if (posix_memalign(&scratch, 64, scratch_bytes + 64) != 0 || posix_memalign(&state, 64, state_bytes + 64) != 0) abort();
  workspace.scratch = scratch;
  workspace.scratch_bytes = scratch_bytes;
  workspace.state = state;
  workspace.state_bytes = state_bytes;
  expect(fa_state_init(plan, state, state_bytes, NULL) == FA_STATUS_OK, "fa_state_init");
  args.q = q;
  args.k = k;
  args.v = v;
  args.o = o;
  expect(fa_run(plan, &args, &workspace, NULL, 0) == FA_STATUS_OK, "fa_run");
  expect(o[0] == 5 && o[1] == 6, "the value of the only key, by fa_run");
  o[0] = o[1] = 0;
  expect(fa_attention(desc, &args, NULL) == FA_STATUS_OK, "fa_attention");
  expect(o[0] == 5 && o[1] == 6, "the value of the only key, by fa_attention");
  fa_plan_destroy(plan);
  free(scratch);
  free(state);
}

int main(void) {
  char text[2048];
  size_t length = 0;
  int calls = 0;
  fa_attention_desc desc;
  expect(fa_version() == FA_VERSION_MAJOR * 10000 + FA_VERSION_MINOR * 100 + FA_VERSION_PATCH, "fa_version");
  expect(strcmp(fa_status_name(FA_STATUS_UNSUPPORTED), "FA_STATUS_UNSUPPORTED") == 0, "fa_status_name");
  expect(fa_attention_desc_init(&desc) == FA_STATUS_OK, "fa_attention_desc_init");
  desc.q = desc.k = desc.v = desc.o = compact(FA_DTYPE_F32, 1, 1, 1, 2);
  expect(fa_supports(&desc) == FA_STATUS_OK, "fa_supports");
  expect(fa_explain(&desc, text, sizeof text, &length) == FA_STATUS_OK && strstr(text, "kernel: cpu/") != NULL, "fa_explain");
  run_one_key(&desc);
  expect(fa_set_parallel_for(serial_for, &calls, 1) == FA_STATUS_OK, "fa_set_parallel_for");
  run_one_key(&desc);
  desc.window_left = -7;
  expect(fa_validate(&desc) == FA_STATUS_INVALID_ARGUMENT, "fa_validate");
  expect(strcmp(fa_last_error(), "window_left is -7 but must be -1 or more") == 0, "fa_last_error");
  return failures == 0 ? 0 : 1;
}
