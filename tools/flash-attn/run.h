// `flash-attn run`: attention on arrays from files. Options hold what was typed; run_files does the work.
#pragma once

#include "flash_attn/flash_attn.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace flash_attn::tool {

struct RunOptions {
  std::string q, k, v, out, lse;
  std::string dout, dq, dk, dv, dlse, dbias, dsink, dslopes;  // backward, if dout is given
  std::string dtype, device = "cpu", window;
  bool is_causal = false, is_causal_top_left = false, is_deterministic = false;
  std::optional<int64_t> diagonal_offset;
  std::optional<double> scale, softcap, dropout;
  std::optional<uint64_t> seed, offset;
  std::optional<int64_t> num_splits, threads;
  std::string alibi, bias, mask, tree_mask, tree_size, sink;
  std::string cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k, leftpad_k, block_table, cache_batch_idx;
  std::string isa, kernel;
};

// Throws UsageError if the options contradict each other or are out of range; reads no file.
void check_usage(const RunOptions& options);

// The output files that the options name, by option.
std::vector<std::pair<const char*, std::string>> output_files(const RunOptions& options);

// Options that need no file: mask kind, diagonal, window, scale, dropout, splits, isa, kernel. `options` must outlive the desc,
// which borrows its names.
void apply_options(const RunOptions& options, fa_attention_desc* desc);

void run_files(const RunOptions& options);

}  // namespace flash_attn::tool
