/* flash_attn.h: the C ABI of flash-attn-lib, exact attention on CPUs and NVIDIA GPUs.
 *
 * The way of a call: describe the problem (fa_attention_desc: shapes, strides, options), plan it once
 * (fa_plan_create), then run the plan as often as wanted with pointers (fa_attention_args), a workspace
 * that the caller owns, and a stream. fa_attention() does all of it in one call.
 *
 * Conventions
 *   - Every function returns an fa_status unless said otherwise; fa_last_error() explains the calling thread's last failure.
 *     Nothing throws, prints, exits or aborts. On any status but FA_STATUS_OK no output tensor has been written,
 *     except FA_STATUS_DEVICE_ERROR, after which outputs are undefined.
 *   - Strides and offsets are counted in elements, sizes named *_bytes in bytes. The last dimension of every tensor is
 *     contiguous (stride 1); the other strides are free (0 broadcasts an input).
 *   - Structs passed by pointer begin with struct_size, which fa_*_init fills in; they only grow at their end.
 *   - The library owns only what it returns as fa_plan*. Pointers inside args are borrowed for the duration of the run.
 *   - Names: b requests, s_q query rows and s_k keys of a request, h_q query heads, h_k key heads, d and d_v head dims.
 *
 * Semantics (masks, lengths, dropout, log-sum-exp) are specified in docs/design.md, section "Semantics".
 */
#ifndef FLASH_ATTN_FLASH_ATTN_H
#define FLASH_ATTN_FLASH_ATTN_H

#include <stddef.h>
#include <stdint.h>

#define FA_VERSION_MAJOR 0
#define FA_VERSION_MINOR 1
#define FA_VERSION_PATCH 0

#if defined(FA_STATIC)
#define FA_API
#else
#define FA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status ------------------------------------------------------------------------------------------------- */

typedef int32_t fa_status;
enum {
  FA_STATUS_OK = 0,
  FA_STATUS_INVALID_ARGUMENT = 1, /* the call contradicts itself or the documentation; the message names the argument */
  FA_STATUS_UNSUPPORTED = 2,      /* valid, but not served by this build, device or forced kernel */
  FA_STATUS_OUT_OF_MEMORY = 3,    /* the host allocator failed */
  FA_STATUS_DEVICE_ERROR = 4,     /* the driver or the device reported an error */
  FA_STATUS_COMPILE_ERROR = 5,    /* a kernel could not be compiled or loaded */
  FA_STATUS_INTERNAL = 6          /* a defect of the library */
};

/* Name of a status, such as "FA_STATUS_UNSUPPORTED"; never NULL. */
FA_API const char* fa_status_name(fa_status status);

/* Message of the calling thread's last failed call, valid until that thread's next call into the library.
 * Empty if nothing has failed yet; never NULL. */
FA_API const char* fa_last_error(void);

/* Library version as major*10000 + minor*100 + patch. */
FA_API uint32_t fa_version(void);

/* ---- Tensors ------------------------------------------------------------------------------------------------ */

typedef int32_t fa_dtype;
enum {
  FA_DTYPE_NONE = 0, /* in a tensor description: the tensor is absent */
  FA_DTYPE_F32 = 1,
  FA_DTYPE_F16 = 2,
  FA_DTYPE_BF16 = 3,
  FA_DTYPE_F8E4M3 = 4,
  FA_DTYPE_F8E5M2 = 5,
  FA_DTYPE_I32 = 6,
  FA_DTYPE_U64 = 7,
  FA_DTYPE_BOOL = 8 /* one byte, nonzero is true */
};

typedef int32_t fa_device_type;
enum { FA_DEVICE_CPU = 0, FA_DEVICE_CUDA = 1 };

#define FA_MAX_RANK 4

/* Shape and strides of a tensor; it holds no pointer. This struct is part of others and never changes. */
typedef struct fa_tensor_desc {
  fa_dtype dtype;
  int32_t rank;
  int64_t shape[FA_MAX_RANK];
  int64_t stride[FA_MAX_RANK]; /* elements; stride[rank-1] is 1 */
  int64_t alignment;           /* bytes the base pointer is promised to be a multiple of; 0: the element size, on GPUs 16 */
} fa_tensor_desc;

/* ---- Problem description ------------------------------------------------------------------------------------ */

typedef int32_t fa_direction;
enum { FA_FORWARD = 0, FA_BACKWARD = 1 };

typedef int32_t fa_kv_layout;
enum {
  FA_KV_CONTIGUOUS = 0, /* k, v are [b_k, s_k, h_k, d] or packed [total_k, h_k, d] */
  FA_KV_PAGED = 1,      /* k, v are [pages, page_size, h_k, d]; block_table maps a request's pages */
  FA_KV_POINTERS = 2    /* args.k_ptrs, args.v_ptrs: each request's own base; k, v describe [b, s_k, h_k, d], stride[0] unused */
};

typedef int32_t fa_mask_kind;
enum {
  FA_MASK_FULL = 0,       /* every key inside the window */
  FA_MASK_CAUSAL = 1,     /* key j <= i + delta */
  FA_MASK_TREE = 2,       /* prefix keys, and tree keys by the bits of tree_mask */
  FA_MASK_PER_REQUEST = 3 /* args.mask_kinds, int32 [b], holds one of the three above for each request */
};

/* Where the diagonal of causal masks, windows, chunks and ALiBi lies: query i stands at key i + delta. */
typedef int32_t fa_diagonal;
enum {
  FA_DIAGONAL_BOTTOM_RIGHT = 0,      /* delta = s_k - s_q */
  FA_DIAGONAL_TOP_LEFT = 1,          /* delta = 0 */
  FA_DIAGONAL_OFFSET = 2,            /* delta = diagonal_offset */
  FA_DIAGONAL_OFFSET_PER_REQUEST = 3 /* delta = args.diagonal_offsets[request], int32 [b] */
};

/* Which int32 vectors args will carry (fa_attention_desc.inputs). */
enum {
  FA_INPUT_CU_SEQLENS_Q = 1 << 0,    /* [b+1] row offsets of packed q, from 0 to at most total_q; needed exactly when q is packed */
  FA_INPUT_CU_SEQLENS_K = 1 << 1,    /* [b+1] row offsets of packed k; needed exactly when k is packed */
  FA_INPUT_SEQUSED_Q = 1 << 2,       /* [b] query rows used of each request */
  FA_INPUT_SEQUSED_K = 1 << 3,       /* [b] key rows used of each request, counted from physical row 0 (left padding included) */
  FA_INPUT_LEFTPAD_K = 1 << 4,       /* [b] key rows to skip at the front */
  FA_INPUT_CACHE_BATCH_IDX = 1 << 5, /* [b] row of the first dimension of k, v that a request uses */
  FA_INPUT_CU_SEQLENS_K_NEW = 1 << 6, /* [b+1] row offsets of packed k_new, v_new */
  FA_INPUT_SEQLENS_ROTARY = 1 << 7,   /* [b] rotary position of the first new row */
  FA_INPUT_DROPOUT_POINTERS = 1 << 8  /* dropout seed and offset are read through args.dropout_seed_ptr, dropout_offset_ptr */
};

/* fa_attention_desc.flags */
enum {
  FA_FLAG_DETERMINISTIC = 1 << 0,      /* backward bitwise reproducible (forward always is) */
  FA_FLAG_BATCH_INVARIANT = 1 << 1,    /* a request's result does not depend on the other requests of the call */
  FA_FLAG_ROTARY_INTERLEAVED = 1 << 2, /* rotary pairs are (0,1), (2,3), ...; otherwise (0, r/2), (1, r/2+1), ... */
  FA_FLAG_ACCUMULATE_DQ = 1 << 3,      /* backward: add to dq instead of overwriting it; likewise dk, dv */
  FA_FLAG_ACCUMULATE_DK = 1 << 4,
  FA_FLAG_ACCUMULATE_DV = 1 << 5,
  FA_FLAG_ALLOW_TF32 = 1 << 6,  /* fp32 inputs may be multiplied in TF32 on GPUs */
  FA_FLAG_DEBUG_CHECKS = 1 << 7 /* report out-of-range device tables instead of only clamping them */
};

/* Everything about a problem but the data. Start from fa_attention_desc_init. A tensor whose dtype is FA_DTYPE_NONE is absent.
 *
 * FA_BACKWARD describes the forward call again, with the same options, and the gradients. q, k, v, dout and the o and lse that the
 * forward wrote (both required) are inputs; dq, dk and dv are required outputs, the other gradients optional. Dropout's pattern is
 * the forward's if seed and offset are. Keys are contiguous (FA_KV_CONTIGUOUS) and each request's own: no FA_INPUT_CACHE_BATCH_IDX,
 * and no key splits. Gradients of shared heads and of broadcast dimensions are sums. Elements of a gradient outside the lengths
 * are written 0, or left as they are where it is accumulated. */
typedef struct fa_attention_desc {
  uint32_t struct_size;
  uint32_t flags;  /* FA_FLAG_* */
  uint32_t inputs; /* FA_INPUT_* */
  fa_direction direction;
  fa_device_type device_type;
  int32_t device_index; /* CUDA ordinal; -1: the device of the stream's context */

  fa_kv_layout kv_layout;
  fa_mask_kind mask_kind;
  fa_diagonal diagonal;
  int32_t num_threads; /* CPU: most threads a run may use; 0: fa_get_num_threads() */
  int32_t sm_limit;    /* GPU: most multiprocessors a run may use; 0: all */
  int32_t num_splits;  /* forward: key splits per request; 0: chosen; results are merged in split order */

  int64_t batch;   /* requests; 0: q.shape[0] of a dense q */
  int64_t max_s_q; /* longest request of a packed q; 0: total_q */
  int64_t max_s_k; /* longest request of packed, paged or per-pointer k; 0: what the tensor or table can hold */

  int64_t split_size;      /* forward: keys of one split; 0: chosen; not together with num_splits */
  int64_t diagonal_offset; /* with FA_DIAGONAL_OFFSET */
  int64_t window_left;     /* keys visible to the left of the diagonal; -1: all (the default) */
  int64_t window_right;    /* keys visible to the right of the diagonal; -1: all (the default) */
  int64_t first_keys;      /* keys j < first_keys stay visible however far left of the window or chunk; right limits still hold */
  int64_t chunk;           /* chunked attention: query and key must lie in the same chunk of that many keys; 0: off */

  float scale;     /* S = scale * q.k; NaN (the default) means 1/sqrt(d) */
  float softcap;   /* S = softcap * tanh(S / softcap); 0: off */
  float dropout_p; /* probability that a weight is dropped, 0 <= p < 1 */
  int32_t reserved;

  fa_tensor_desc q;   /* [b, s_q, h_q, d], or packed [total_q, h_q, d]; f32, f16 or bf16 (f8 where served) */
  fa_tensor_desc k;   /* see fa_kv_layout; dtype of q */
  fa_tensor_desc v;   /* as k, last dimension d_v */
  fa_tensor_desc o;   /* [b, s_q, h_q, d_v] or packed; any of f32, f16, bf16 */
  fa_tensor_desc lse; /* f32 [b, h_q, s_q] or packed [h_q, total_q]: ln sum exp of the scores; optional in a forward */

  fa_tensor_desc block_table; /* i32 [b, max_pages]: page numbers; entries past a request's length are not read */
  fa_tensor_desc alibi;       /* f32 [h_q] or [b, h_q]: slopes; score -= slope * |i + delta - j| */
  fa_tensor_desc bias;        /* f32 or q's dtype, [b|1, h_q|1, s_q|1, s_k|1] or packed [h_q|1, total_q|1, max_s_k]: added to S */
  fa_tensor_desc mask;        /* bool, shapes of bias: nonzero is visible */
  fa_tensor_desc tree_mask;   /* u64 [b, s_q, words] or [total_q, words]: bit c of a row shows tree key c */
  fa_tensor_desc sink;        /* f32 [h_q]: logit that joins each row's denominator */

  fa_tensor_desc k_new;      /* rows to append to the cache before attending, [b, s_new, h_k, d] or packed */
  fa_tensor_desc v_new;      /* likewise, [b, s_new, h_k, d_v] */
  fa_tensor_desc rotary_cos; /* [positions, rotary_dim/2], applied to q and k_new; dtype of q */
  fa_tensor_desc rotary_sin;
  fa_tensor_desc q_descale; /* f32 [b, h_k], for f8 inputs */
  fa_tensor_desc k_descale;
  fa_tensor_desc v_descale;

  /* Of a backward only. Strides are each tensor's own; gradients that are written share memory with nothing. */
  fa_tensor_desc dout;    /* gradient of o: its shape and dtype */
  fa_tensor_desc dq;      /* gradient of q: its shape, its dtype or f32 */
  fa_tensor_desc dk;      /* likewise of k */
  fa_tensor_desc dv;      /* likewise of v */
  fa_tensor_desc dlse;    /* optional incoming gradient of lse, f32, its shape; absent: 0 */
  fa_tensor_desc dbias;   /* optional gradient of bias, f32, its shape; overwritten, as the next two */
  fa_tensor_desc dsink;   /* optional gradient of sink, f32 [h_q] */
  fa_tensor_desc dslopes; /* optional gradient of the ALiBi slopes, f32, their shape */

  const char* kernel;    /* force a kernel by name (see fa_explain); NULL: the planner chooses. Copied by fa_plan_create. GPU: a
                            schedule may be forced too, "sm80_fwd:tile_q=64,tile_k=32", by the fields that fa_explain prints */
  const char* isa;       /* CPU: force an instruction set by name (see fa_cpu_isa_name); NULL: the best of this machine */
  const char* score_mod; /* GPU: source of a function applied to scores; NULL: none */
} fa_attention_desc;

/* Pointers of one run. All of the plan's device type, except k_ptrs/v_ptrs of a CPU plan, which point to host arrays.
 * A pointer must be given exactly when its tensor or FA_INPUT_* bit was described. */
typedef struct fa_attention_args {
  uint32_t struct_size;
  uint32_t reserved;
  const void* q;
  const void* k;
  const void* v;
  void* o; /* written by a forward, read by a backward; likewise lse */
  float* lse;
  const int32_t* cu_seqlens_q;
  const int32_t* cu_seqlens_k;
  const int32_t* seqused_q;
  const int32_t* seqused_k;
  const int32_t* leftpad_k;
  const int32_t* cache_batch_idx;
  const int32_t* block_table;
  const void* const* k_ptrs; /* [b], with FA_KV_POINTERS; only the rows that a request uses need be there */
  const void* const* v_ptrs;
  const int32_t* mask_kinds;       /* [b], with FA_MASK_PER_REQUEST */
  const int32_t* diagonal_offsets; /* [b], with FA_DIAGONAL_OFFSET_PER_REQUEST */
  const int32_t* tree_sizes;       /* [b], with tree_mask: the request's last tree_sizes[r] keys are tree keys */
  const float* alibi;
  const void* bias;
  const uint8_t* mask;
  const uint64_t* tree_mask;
  const float* sink;
  uint64_t dropout_seed; /* Philox key and counter offset, unless FA_INPUT_DROPOUT_POINTERS */
  uint64_t dropout_offset;
  const uint64_t* dropout_seed_ptr;
  const uint64_t* dropout_offset_ptr;
  void* k_cache_out; /* append: the writable cache, same memory as k; NULL otherwise */
  void* v_cache_out;
  const void* k_new;
  const void* v_new;
  const int32_t* cu_seqlens_k_new;
  const int32_t* seqlens_rotary;
  const void* rotary_cos;
  const void* rotary_sin;
  const float* q_descale;
  const float* k_descale;
  const float* v_descale;
  const void* dout;
  void* dq;
  void* dk;
  void* dv;
  const float* dlse;
  float* dbias;
  float* dsink;
  float* dslopes;
} fa_attention_args;

/* Memory of one run, in the plan's device memory, 64-byte aligned. Two runs may share neither at the same time, and what a plan
 * uses of it may share nothing with the run's tensors. */
typedef struct fa_workspace {
  uint32_t struct_size;
  uint32_t reserved;
  void* scratch; /* at least fa_plan_workspace's scratch bytes; contents undefined before and after */
  size_t scratch_bytes;
  void* state; /* at least the state bytes, once zeroed by fa_state_init, and left zero by every run */
  size_t state_bytes;
} fa_workspace;

/* Fill in struct_size and the defaults: everything absent, windows unbounded, scale 1/sqrt(d). NULL is refused. */
FA_API fa_status fa_attention_desc_init(fa_attention_desc* desc);
FA_API fa_status fa_attention_args_init(fa_attention_args* args);
FA_API fa_status fa_workspace_init(fa_workspace* workspace);

/* ---- Plans -------------------------------------------------------------------------------------------------- */

typedef struct fa_plan fa_plan;

/* Check a description. FA_STATUS_INVALID_ARGUMENT names the first thing wrong; whether it can be served is fa_supports. */
FA_API fa_status fa_validate(const fa_attention_desc* desc);

/* FA_STATUS_OK if fa_plan_create would succeed; otherwise fa_last_error() gives the reason. */
FA_API fa_status fa_supports(const fa_attention_desc* desc);

/* Validate, choose a kernel and size the workspace. Host work only: touches no device. The plan is immutable; any number of
 * threads may run it at once, each with its own args and workspace. On failure *plan is NULL. */
FA_API fa_status fa_plan_create(const fa_attention_desc* desc, fa_plan** plan);

/* Release a plan; NULL is allowed. No run of it may be in progress. */
FA_API void fa_plan_destroy(fa_plan* plan);

/* Workspace a run of this plan needs; both are 0 for many plans. */
FA_API fa_status fa_plan_workspace(const fa_plan* plan, size_t* scratch_bytes, size_t* state_bytes);

/* A workspace that suffices for every problem like `maxima` whose extents (batch, lengths, heads, dims) do not exceed it; on a CPU,
 * for no more threads than fa_get_num_threads() gives now (or maxima.num_threads). */
FA_API fa_status fa_workspace_bound(const fa_attention_desc* maxima, size_t* scratch_bytes, size_t* state_bytes);

/* Zero the state memory of a plan, once, before its first run. `stream` as in fa_run. */
FA_API fa_status fa_state_init(const fa_plan* plan, void* state, size_t state_bytes, void* stream);

/* Do ahead what a first run would do: start threads on a CPU, also while other runs are under way; compile and load on a GPU, into
 * `context` (a CUcontext, NULL: the current one). */
FA_API fa_status fa_prepare(const fa_plan* plan, void* context);

enum {
  FA_RUN_NO_COMPILE = 1 << 0 /* fail instead of compiling or loading a kernel */
};

/* Run a plan. `stream` is a CUstream on a GPU (work is queued, the call returns) and NULL on a CPU (the call returns when the
 * outputs are written). `workspace` may be NULL when both sizes are 0. Lengths, tables and indices read on a CPU are checked
 * against the declared extents first; a bad one is FA_STATUS_INVALID_ARGUMENT and nothing is written. */
FA_API fa_status fa_run(const fa_plan* plan, const fa_attention_args* args, const fa_workspace* workspace, void* stream,
                        uint32_t run_flags);

/* Plan and run in one call. On a CPU the workspace is kept by the calling thread and released at its exit; on a GPU only
 * problems without workspace are served this way. */
FA_API fa_status fa_attention(const fa_attention_desc* desc, const fa_attention_args* args, void* stream);

/* Text about a description: problem, chosen kernel, why the others were passed over, workspace. Also for problems that are not
 * served. Writes at most `capacity` bytes including the final 0; *length (may be NULL) is the full length without it. */
FA_API fa_status fa_explain(const fa_attention_desc* desc, char* buffer, size_t capacity, size_t* length);

/* Full name of the plan's kernel, such as "cpu/panel/avx512"; valid as long as the plan. NULL for a NULL plan. */
FA_API const char* fa_plan_kernel(const fa_plan* plan);

/* ---- GPU kernels compiled ahead of time --------------------------------------------------------------------- */

/* Compile what plans of `count` descriptions (device_type FA_DEVICE_CUDA) need on GPUs of the given architectures ("sm_80,sm_90a"),
 * on `num_threads` threads (0: all processors), and write it to the file `path`, an archive. Needs NVRTC and no GPU; what the
 * user's cache holds is taken from there. *kernels and *unserved (each may be NULL): kernels in the archive, and pairs of
 * description and architecture that no kernel serves. */
FA_API fa_status fa_archive_write(const char* path, const char* architectures, const fa_attention_desc* const* descs, int64_t count,
                                  int32_t num_threads, int64_t* kernels, int64_t* unserved);

/* Look for kernels in this archive (a file, or a folder with one <architecture>.kernels each) before FLASH_ATTN_ARCHIVE or the
 * installed one, from now on and in the whole process. Kernels already loaded stay. NULL: no longer. */
FA_API fa_status fa_archive_use(const char* path);

/* ---- Machine and process ------------------------------------------------------------------------------------ */

/* The index-th instruction set this CPU offers, best first ("amx_bf16", "avx512_bf16", "avx512", "avx2", "baseline"; "neon");
 * NULL past the last. The environment variable FLASH_ATTN_ISA replaces the best by name. */
FA_API const char* fa_cpu_isa_name(int32_t index);

/* The index-th kernel name of a device's room, best first; NULL past the last. */
FA_API const char* fa_kernel_name(fa_device_type device_type, int32_t index);

/* Text about a device, one "key: value" a line. Buffer rules as fa_explain. */
FA_API fa_status fa_device_text(fa_device_type device_type, int32_t device_index, char* buffer, size_t capacity, size_t* length);

/* Threads a CPU run may use; 0 restores the default, the processors this process may run on. Results never depend on it. */
FA_API fa_status fa_set_num_threads(int32_t num_threads);
FA_API int32_t fa_get_num_threads(void);

/* Run CPU work on the caller's threads. parallel_for(user, count, task, context) must call task(context, i) once for every
 * i in [0, count), on any threads, and return when all have returned; a serial loop is allowed. `concurrency` is the number of
 * threads it has. NULL restores the library's own pool. */
typedef void (*fa_task_fn)(void* context, int64_t index);
typedef void (*fa_parallel_for_fn)(void* user, int64_t count, fa_task_fn task, void* context);
FA_API fa_status fa_set_parallel_for(fa_parallel_for_fn parallel_for, void* user, int32_t concurrency);

typedef int32_t fa_log_level;
enum { FA_LOG_ERROR = 0, FA_LOG_INFO = 1, FA_LOG_DEBUG = 2 };

/* The only way text leaves the library: one call per message of `level` or below, from any thread. NULL turns it off. */
typedef void (*fa_log_fn)(void* user, fa_log_level level, const char* message);
FA_API fa_status fa_set_log(fa_log_fn log, void* user, fa_log_level level);

#ifdef __cplusplus
}
#endif

#endif /* FLASH_ATTN_FLASH_ATTN_H */
