// What the CPU kernels receive: one parameter block per run, one task per call, and the layout of a thread's scratch memory, which
// planner and kernels both read from here. Plain data; no host headers.
#pragma once

#include "math/philox.h"
#include "math/seqlen.h"

#include <cstddef>
#include <cstdint>

namespace flash_attn::cpu {

enum class KvSource : int { contiguous, paged, pointers };

struct ForwardParams {
  DType dtype = DType::none;    // q, k, v
  DType o_dtype = DType::none;  // o
  int64_t group = 1;            // query heads per key head
  int64_t d = 0, d_v = 0;

  const char* q = nullptr;  // [b, s_q, h_q, d] through the strides below, in elements of dtype
  const char* k = nullptr;  // [k_batch, rows, h_k, d]; pages when paged
  const char* v = nullptr;
  char* o = nullptr;     // [b, s_q, h_q, d_v], elements of o_dtype
  float* lse = nullptr;  // [b, h_q, s_q]; nullable
  Axes q_axes, k_axes, v_axes, o_axes, lse_axes;

  KvSource kv_source = KvSource::contiguous;
  const void* const* k_ptrs = nullptr;  // [b], with KvSource::pointers
  const void* const* v_ptrs = nullptr;
  const int32_t* block_table = nullptr;  // [b, max_pages], with KvSource::paged
  int64_t block_table_stride = 0;
  int64_t page_size = 1;

  float scale = 1;               // S = scale * q.k
  float softcap = 0;             // 0: off
  const float* alibi = nullptr;  // [b|1, h_q]; nullable
  int64_t alibi_batch_stride = 0;
  const char* bias = nullptr;  // nullable, elements of bias_dtype
  DType bias_dtype = DType::none;
  BiasAxes bias_axes;
  const uint8_t* mask = nullptr;  // nullable
  BiasAxes mask_axes;
  const uint64_t* tree = nullptr;  // nullable, [b, s_q, words]
  int64_t tree_batch_stride = 0, tree_row_stride = 0;
  const float* sink = nullptr;  // [h_q]; nullable

  unsigned dropout_threshold = 0;  // 0: no dropout
  DropoutKey dropout;
  float keep_scale = 1;  // 1 / (1 - p)

  int block_rows = 0;  // most rows of a task; a multiple of the panel's lanes
  int block_keys = 0;  // keys per block; block boundaries are its multiples, whatever the task
};

// Rows are query rows of one key head's group: row = i * group + g is query i of head head_k * group + g.
struct ForwardTask {
  int64_t head_k = 0;
  int64_t row_begin = 0, row_end = 0;
  int64_t key_begin = 0, key_end = 0;  // the split's keys, multiples of block_keys; the last one is open to s_k
  float* partial = nullptr;            // null: write o and lse; else the split's results, see partial_floats
};

// A partial result of `rows` rows: max [rows] (log2 domain), sum [rows], o [rows][d_v], not normalised.
static inline int64_t partial_floats(int64_t rows, int64_t d_v) { return rows * (d_v + 2); }

// Merge the partial results of one row block, in split order; partials lie `stride` floats apart.
struct MergeTask {
  int64_t head_k = 0;
  int64_t row_begin = 0, row_end = 0;
  const float* partials = nullptr;
  int64_t stride = 0;
  int num_splits = 0;
};

// Bytes a panel needs for its operands: dot2 kernels keep 16-bit pairs, the others fp32.
struct PanelFormat {
  int lanes = 0;         // query rows of a wide panel
  bool is_dot2 = false;  // bf16 products on pairs
  int pair_pad = 2;      // K rows are padded to a multiple of this many elements (dot2)
  int value_pad = 1;     // O^T rows are padded to a multiple of this many (dot2)
  int buffers = 1;       // panels in flight, each with scores and weights of its own
};

static inline int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// Offsets, in bytes, of a thread's arrays. Every array starts on a cache line.
struct PanelScratch {
  int64_t q_t, scores, weights, o_t, k_block, v_block, extra, stats, total;

  PanelScratch(const PanelFormat& format, int64_t d, int64_t d_v, int64_t rows, int64_t keys) {
    int64_t end = 0;
    const auto book = [&end](int64_t bytes) {
      const int64_t at = end;
      end += round_up(bytes, 64);
      return at;
    };
    const int64_t padded_d = format.is_dot2 ? round_up(d, format.pair_pad) : d;
    const int64_t padded_d_v = format.is_dot2 ? round_up(d_v, format.value_pad) : d_v;
    q_t = book(format.is_dot2 ? padded_d / 2 * rows * 4 : padded_d * rows * 4);
    scores = book(keys * format.lanes * 4 * format.buffers);
    weights = book(format.is_dot2 ? keys / 2 * format.lanes * 4 * format.buffers : 0);
    o_t = book(padded_d_v * rows * 4);
    k_block = book(format.is_dot2 ? keys * padded_d * 2 : keys * padded_d * 4);
    v_block = book(format.is_dot2 ? keys * padded_d_v * 2 : keys * padded_d_v * 4);
    extra = book(keys * format.lanes * 4);
    stats = book(rows * 8 + rows * 6 * 4);
    total = end;
  }
};

// ---- Backward ----

// o and lse of the forward are read. Every gradient of q, k, v is there; those of bias, sink and slopes only if wanted.
struct BackwardParams : ForwardParams {
  const char* dout = nullptr;   // elements of o_dtype
  const float* dlse = nullptr;  // nullable
  Axes dout_axes, dlse_axes;

  char *dq = nullptr, *dk = nullptr, *dv = nullptr;
  DType dq_dtype = DType::none, dk_dtype = DType::none, dv_dtype = DType::none;
  Axes dq_axes, dk_axes, dv_axes;
  bool adds_dq = false, adds_dk = false, adds_dv = false;  // to what is there

  float* dbias = nullptr;  // zero before the run; nullable
  BiasAxes dbias_axes;

  int64_t padded_d = 0, padded_d_v = 0;  // of the fp32 sums below
};

// The gradients that a range of one key head's stacked rows gives; rows as in ForwardTask. What other ranges add to as well goes to
// sums of the range's own, which are merged in the order of the ranges.
struct BackwardTask {
  int64_t head_k = 0;  // whose keys
  int64_t head = 0;    // what place_of stacks rows by: head_k, or with a group of 1 the query head
  int64_t row_begin = 0, row_end = 0;
  int64_t key_begin = 0, key_end = 0;  // clips the keys; multiples of block_keys, or s_k

  float* dk = nullptr;         // [s_k, padded][padded_d], not scaled; null: neither dq nor dk and dv are wanted
  float* dv = nullptr;         // [s_k, padded][padded_d_v]
  int64_t* hull = nullptr;     // out, [2]: the keys that dk and dv are written for
  double* sinks = nullptr;     // [group], added to: gradients of the sinks; nullable
  double* slopes = nullptr;    // [group], added to: gradients of the slopes; nullable
  float* by_key = nullptr;     // [group][s_k], added to: bias gradients summed over the range's rows; nullable
  float* by_row = nullptr;     // [row_end - row_begin], added to: bias gradients summed over keys; nullable
  bool adds_to_dbias = false;  // element by element: nobody else may do so meanwhile
};

// Sum the ranges' dk and dv for the keys [key_begin, key_end) and write them, scaled, in their dtypes.
struct KeySumTask {
  int64_t head_k = 0;
  int64_t key_begin = 0, key_end = 0;
  const float* dk = nullptr;  // of the first range
  const float* dv = nullptr;
  int64_t stride = 0;              // floats between ranges
  const int64_t* hulls = nullptr;  // [ranges][2]
  int ranges = 1;
};

// The operands of the backward kernel.
struct GradientFormat {
  int lanes = 0;         // query rows of a panel
  bool is_dot2 = false;  // bf16 products on pairs
  int pad = 1;           // head dims are padded to a multiple of this many elements
  int key_pad = 1;       // and the keys of dK's and dV's sums to a multiple of this
};

// Offsets, in bytes, of a thread's arrays in a backward run.
struct GradientScratch {
  int64_t q_t, dout_t, o_t, q_rows, dout_rows, dq_t;  // of a block of rows
  int64_t k_copy, v_copy, k_pairs;                    // of a block of keys
  int64_t weights, dscores;                           // of both, panel by panel
  int64_t panel_scores, panel_dscores, panel_pairs;   // of one panel and a block of keys
  int64_t extra, keep, slopes;                        // likewise
  int64_t lines, stats, total;

  GradientScratch(const GradientFormat& format, int64_t d, int64_t d_v, int64_t rows, int64_t keys) {
    int64_t end = 0;
    const auto book = [&end](int64_t bytes) {
      const int64_t at = end;
      end += round_up(bytes, 64);
      return at;
    };
    const int64_t padded_d = round_up(d, format.pad), padded_d_v = round_up(d_v, format.pad);
    const int64_t element = format.is_dot2 ? 2 : 4;
    const int64_t panel = keys * format.lanes * 4;
    q_t = book(rows * padded_d * element);
    dout_t = book(rows * padded_d_v * element);
    o_t = book(format.lanes * padded_d_v * element);  // one panel's
    q_rows = book(rows * padded_d * element);
    dout_rows = book(rows * padded_d_v * element);
    dq_t = book(rows * padded_d * 4);
    k_copy = book(keys * padded_d * element);
    v_copy = book(keys * padded_d_v * element);
    k_pairs = book(format.is_dot2 ? keys * padded_d * 2 : 0);
    weights = book(rows * keys * element);
    dscores = book(rows * keys * element);
    panel_scores = book(format.is_dot2 ? panel : 0);
    panel_dscores = book(format.is_dot2 ? panel : 0);
    panel_pairs = book(format.is_dot2 ? panel / 2 : 0);
    extra = book(panel);
    keep = book(panel);
    slopes = book(panel);
    lines = book(16 * (padded_d > padded_d_v ? padded_d : padded_d_v) * 4);
    stats = book(rows * 9 * 4);
    total = end;
  }
};

// One instruction set's entry points. `scratch` is 64-byte aligned and holds scratch_bytes; contents are undefined on entry and
// exit.
struct KernelTable {
  const char* isa;
  PanelFormat format_f32;   // for f32 inputs, and 16-bit ones that are widened
  PanelFormat format_bf16;  // for bf16 inputs
  int max_direct_rows;      // rows of a task that the row kernel takes
  void (*forward_panel)(const ForwardParams& params, const Request& request, const ForwardTask& task, char* scratch);
  void (*forward_rows)(const ForwardParams& params, const Request& request, const ForwardTask& task, char* scratch);
  void (*merge)(const ForwardParams& params, const Request& request, const MergeTask& task);
  int64_t (*row_scratch_bytes)(int64_t d, int64_t d_v);
  GradientFormat gradients_f32;   // for f32 inputs, and 16-bit ones that are widened
  GradientFormat gradients_bf16;  // where q, k, v, o are all bf16
  void (*backward)(const BackwardParams& params, const Request& request, const BackwardTask& task, char* scratch);
  void (*sum_keys)(const BackwardParams& params, const Request& request, const KeySumTask& task);
};

}  // namespace flash_attn::cpu
