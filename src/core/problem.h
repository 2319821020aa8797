// Problem: a validated attention problem in the form that planners and kernels read. make_problem is THE validation: every check on
// a description is there and nowhere else. A Problem is a value; nothing in it points to the caller's memory.
#pragma once

#include "core/status.h"
#include "core/tensor_id.h"
#include "flash_attn/flash_attn.h"
#include "math/types.h"

#include <cstddef>
#include <cstdint>
#include <string>

namespace flash_attn {

enum class Direction : int { forward, backward };
enum class KvLayout : int { contiguous, paged, pointers };
enum class Diagonal : int { bottom_right, top_left, offset, offset_per_request };

struct Problem {
  Direction direction = Direction::forward;
  fa_device_type device_type = FA_DEVICE_CPU;
  int device_index = -1;

  DType dtype = DType::none;    // q, k, v
  DType o_dtype = DType::none;  // o

  int64_t b = 0, h_q = 0, h_k = 0, group = 1, d = 0, d_v = 0;
  int64_t max_s_q = 0;  // most query rows of a request
  int64_t max_s_k = 0;  // most keys of a request
  int64_t total_q = 0;  // rows of a packed q; b * s_q of a dense one
  int64_t k_rows = 0;   // rows a request (dense, pointers), all requests (packed) or a page (paged) can hold
  int64_t k_batch = 0;  // extent of k's first dimension: cache rows, or pages; 1 for packed

  bool packed_q = false;
  bool packed_k = false;
  KvLayout kv_layout = KvLayout::contiguous;
  int64_t page_size = 0, num_pages = 0, max_pages = 0, block_table_stride = 0;

  Axes q, k, v, o;
  Axes lse;  // row stride is between query rows
  bool has_lse = false;

  // A backward's tensors; all of this is unset in a forward. There o and lse are inputs, k and v are contiguous, and request r uses
  // row r of a dense k. dout has o_dtype; lse has a dlse beside it only if has_dlse.
  Axes dout, dq, dk, dv;
  DType dq_dtype = DType::none, dk_dtype = DType::none, dv_dtype = DType::none;  // dtype or f32
  bool accumulates_dq = false, accumulates_dk = false, accumulates_dv = false;   // add to what is there, else overwrite
  bool has_dlse = false;
  Axes dlse;  // as lse
  bool has_dbias = false;
  BiasAxes dbias;                                                                 // f32; 0 where the gradient is summed
  int64_t dbias_batches = 0, dbias_heads = 0, dbias_rows = 0, dbias_columns = 0;  // its extents; 1 where summed (packed: 1 batch)
  bool has_dsink = false;                                                         // f32 [h_q]
  bool has_dslopes = false;                                                       // f32 [dslopes_rows, h_q]
  int64_t dslopes_rows = 0, dslopes_batch_stride = 0;                             // 1 row: summed over the requests

  uint32_t tensors = 0;  // tensor_bit of each described tensor
  bool has_tensor(TensorId id) const { return (tensors & tensor_bit(id)) != 0; }

  uint32_t flags = 0;   // FA_FLAG_*
  uint32_t inputs = 0;  // FA_INPUT_*
  bool has_input(uint32_t bit) const { return (inputs & bit) != 0; }
  bool has_flag(uint32_t bit) const { return (flags & bit) != 0; }

  MaskKind mask_kind = MaskKind::full;
  Diagonal diagonal = Diagonal::bottom_right;
  int64_t diagonal_offset = 0;
  int64_t window_left = -1, window_right = -1;
  int64_t first_keys = 0;
  int64_t chunk = 0;

  float scale = 0;
  float softcap = 0;
  float dropout_p = 0;

  bool has_alibi = false;
  int64_t alibi_batch_stride = 0;
  bool has_bias = false;
  DType bias_dtype = DType::none;
  BiasAxes bias;
  bool has_mask = false;
  BiasAxes mask;
  bool has_tree_mask = false;
  int64_t tree_words = 0;
  int64_t tree_batch_stride = 0, tree_row_stride = 0;
  bool has_sink = false;

  bool has_append = false;
  bool has_rotary = false;
  bool has_descale = false;
  bool has_score_mod = false;

  bool may_use_workspace = true;  // else kernels that need none are chosen
  int num_splits = 0;
  int64_t split_size = 0;
  int num_threads = 0;
  int sm_limit = 0;

  std::string kernel;  // forced by name; empty: free choice
  std::string isa;

  // Smallest multiple, in bytes, that base pointers were promised to have.
  int64_t q_alignment = 0, k_alignment = 0, v_alignment = 0, o_alignment = 0;
  int64_t dout_alignment = 0, dq_alignment = 0, dk_alignment = 0, dv_alignment = 0;
};

// Element size in bytes.
int64_t dtype_bytes(DType dtype);
const char* dtype_name(DType dtype);

Status make_problem(const fa_attention_desc& desc, Problem* problem);

// The memory that a run borrows, as far as its plan uses it.
struct BorrowedMemory {
  const void* scratch = nullptr;
  size_t scratch_bytes = 0;
  const void* state = nullptr;
  size_t state_bytes = 0;
};

// Check a run's pointers against the problem: given exactly when described, aligned, outputs and borrowed memory overlapping
// nothing.
Status check_args(const Problem& problem, const fa_attention_args& args, const BorrowedMemory& memory = {});

// One paragraph naming shapes and features, for explain and logs.
std::string describe(const Problem& problem);

}  // namespace flash_attn
