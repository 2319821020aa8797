// What the options of `run` mean, apart from the files they name: which may stand together, and how they become a description.
#include "run.h"

#include "engine.h"
#include "errors.h"

#include <charconv>
#include <cmath>
#include <limits>

namespace flash_attn::tool {
namespace {

struct Window {
  int64_t left = -1;
  int64_t right = -1;
};

Window parse_window(const std::string& text) {
  Window window;
  const char* end = text.data() + text.size();
  const auto left = std::from_chars(text.data(), end, window.left);
  const bool has_comma = left.ec == std::errc() && left.ptr != end && *left.ptr == ',';
  const auto right = has_comma ? std::from_chars(left.ptr + 1, end, window.right) : left;
  if (!has_comma || right.ec != std::errc() || right.ptr != end) {
    throw UsageError("--window is '" + text + "' but must be two whole numbers L,R; -1 means unbounded");
  }
  return window;
}

int parse_device_index(const std::string& device) {
  if (device == "cpu" || device == "cuda") return -1;
  int index = -1;
  const char* end = device.data() + device.size();
  if (device.starts_with("cuda:")) {
    const auto result = std::from_chars(device.data() + 5, end, index);
    if (result.ec == std::errc() && result.ptr == end && index >= 0) return index;
  }
  throw UsageError("--device is '" + device + "' but must be cpu, cuda or cuda:i");
}

void forbid(bool is_first, const char* first, bool is_second, const char* second) {
  if (is_first && is_second) throw UsageError(std::string(first) + " and " + second + " cannot be given together");
}

void require_pair(const std::string& first, const char* first_name, const std::string& second, const char* second_name) {
  if (!first.empty() && second.empty()) throw UsageError(std::string(first_name) + " needs " + second_name);
}

// A backward needs the forward's inputs, all its files, and keys of its own for each request.
void check_backward(const RunOptions& options) {
  const std::pair<const char*, const std::string&> needed[] = {{"--dq", options.dq}, {"--dk", options.dk}, {"--dv", options.dv}};
  for (const auto& [name, path] : needed) require_pair(options.dout, "--dout", path, name);
  const std::pair<const char*, const std::string&> gradients[] = {
      {"--dq", options.dq},       {"--dk", options.dk},       {"--dv", options.dv},          {"--dlse", options.dlse},
      {"--dbias", options.dbias}, {"--dsink", options.dsink}, {"--dslopes", options.dslopes}};
  for (const auto& [name, path] : gradients) require_pair(path, name, options.dout, "--dout");
  require_pair(options.dbias, "--dbias", options.bias, "--bias");
  require_pair(options.dsink, "--dsink", options.sink, "--sink");
  require_pair(options.dslopes, "--dslopes", options.alibi, "--alibi");
  forbid(!options.dout.empty(), "--dout", !options.block_table.empty(), "--block-table");
  forbid(!options.dout.empty(), "--dout", !options.cache_batch_idx.empty(), "--cache-batch-idx");
}

void check_files(const RunOptions& options) {
  const auto files = output_files(options);
  for (size_t n = 0; n < files.size(); ++n) {
    for (size_t m = 0; m < n; ++m) {
      if (files[n].second != files[m].second) continue;
      throw UsageError(std::string(files[m].first) + " and " + files[n].first + " name the same file, " + files[n].second);
    }
  }
}

void check_range(const char* name, const std::optional<int64_t>& value, int64_t least) {
  if (value && (*value < least || *value > std::numeric_limits<int32_t>::max())) {
    throw UsageError(std::string(name) + " is " + std::to_string(*value) + " but must be " + std::to_string(least) +
                     " or more, below 2^31");
  }
}

}  // namespace

std::vector<std::pair<const char*, std::string>> output_files(const RunOptions& options) {
  std::vector<std::pair<const char*, std::string>> files;
  for (const auto& [name, path] : {std::pair<const char*, const std::string&>{"--out", options.out},
                                   {"--lse", options.lse},
                                   {"--dq", options.dq},
                                   {"--dk", options.dk},
                                   {"--dv", options.dv},
                                   {"--dbias", options.dbias},
                                   {"--dsink", options.dsink},
                                   {"--dslopes", options.dslopes}}) {
    if (!path.empty()) files.emplace_back(name, path);
  }
  return files;
}

void check_usage(const RunOptions& options) {
  const bool is_tree = !options.tree_mask.empty();
  const bool is_paged = !options.block_table.empty();
  forbid(options.is_causal_top_left, "--causal-top-left", options.diagonal_offset.has_value(), "--diag-offset");
  forbid(is_tree, "--tree-mask", options.is_causal, "--causal");
  forbid(is_tree, "--tree-mask", options.is_causal_top_left, "--causal-top-left");
  forbid(is_paged, "--block-table", !options.cu_seqlens_k.empty(), "--cu-seqlens-k");
  forbid(is_paged, "--block-table", !options.cache_batch_idx.empty(), "--cache-batch-idx");
  require_pair(options.tree_mask, "--tree-mask", options.tree_size, "--tree-size");
  require_pair(options.tree_size, "--tree-size", options.tree_mask, "--tree-mask");
  check_backward(options);
  check_files(options);
  if (!options.dtype.empty() && dtype_from_name(options.dtype) == FA_DTYPE_NONE) {
    throw UsageError("--dtype is '" + options.dtype + "' but must be f32, bf16 or f16");
  }
  if (options.dropout && !(*options.dropout >= 0.0 && *options.dropout < 1.0)) {
    throw UsageError("--dropout is " + std::to_string(*options.dropout) + " but must be at least 0 and below 1");
  }
  if (options.scale && !std::isfinite(*options.scale)) {
    throw UsageError("--scale is " + std::to_string(*options.scale) + " but must be a finite number");
  }
  if (options.softcap && !(*options.softcap >= 0.0)) {
    throw UsageError("--softcap is " + std::to_string(*options.softcap) + " but must be 0 (off) or more");
  }
  check_range("--threads", options.threads, 1);
  check_range("--num-splits", options.num_splits, 0);
  parse_device_index(options.device);
  if (!options.window.empty()) parse_window(options.window);
}

void apply_options(const RunOptions& options, fa_attention_desc* desc) {
  desc->device_type = options.device == "cpu" ? FA_DEVICE_CPU : FA_DEVICE_CUDA;
  desc->device_index = parse_device_index(options.device);
  if (options.is_causal || options.is_causal_top_left) desc->mask_kind = FA_MASK_CAUSAL;
  if (!options.tree_mask.empty()) desc->mask_kind = FA_MASK_TREE;
  if (options.is_causal_top_left) desc->diagonal = FA_DIAGONAL_TOP_LEFT;
  if (options.diagonal_offset) {
    desc->diagonal = FA_DIAGONAL_OFFSET;
    desc->diagonal_offset = *options.diagonal_offset;
  }
  if (!options.window.empty()) {
    const Window window = parse_window(options.window);
    desc->window_left = window.left;
    desc->window_right = window.right;
  }
  if (options.scale) desc->scale = static_cast<float>(*options.scale);
  if (options.softcap) desc->softcap = static_cast<float>(*options.softcap);
  if (options.dropout) desc->dropout_p = static_cast<float>(*options.dropout);
  if (options.num_splits) desc->num_splits = static_cast<int32_t>(*options.num_splits);
  if (options.threads) desc->num_threads = static_cast<int32_t>(*options.threads);
  if (options.is_deterministic) desc->flags |= FA_FLAG_DETERMINISTIC;
  if (!options.isa.empty()) desc->isa = options.isa.c_str();
  if (!options.kernel.empty()) desc->kernel = options.kernel.c_str();
}

}  // namespace flash_attn::tool
