// What the planners of the forward kernels ask of a problem alike: which limits and features its scores have, how its rows are
// aligned, and when cutting the keys pays. Pure functions of the problem.
#pragma once

#include "core/problem.h"
#include "cuda/device.h"
#include "cuda/entries/forward_params.h"
#include "cuda/kernels/configs.h"

#include <cstddef>
#include <cstdint>

namespace flash_attn::cuda {

constexpr int64_t kMostKeys = int64_t{1} << 30;  // of a request

KeyMask key_mask_of(const Problem& problem);

// The fields that say what a config's scores depend on, and where lengths come from.
template <class Config>
void set_score_features(const Problem& p, Config* c) {
  c->mask = key_mask_of(p);
  c->has_softcap = p.softcap > 0;
  c->has_alibi = p.has_alibi;
  c->bias_dtype = p.has_bias ? p.bias_dtype : DType::none;
  c->has_bool_mask = p.has_mask;
  c->has_tree = p.has_tree_mask;
  c->has_dropout = p.dropout_p > 0;
  c->has_lengths = reads_lengths(p);
}

// The maximum of products is that of scores only under a positive scale, neither tiny nor huge.
bool scales_scores(const Problem& problem);

// Largest unit in which every row of a tensor begins: 16, 8, 4 or the element. `element` and `alignment` in bytes.
int access_of(const Axes& axes, int64_t element, int64_t alignment);

// Do rows of o begin at multiples of two elements?
bool writes_pairs(const Problem& problem);

// Multiprocessors that a run may use.
int multiprocessors_of(const Problem& problem, const DeviceInfo& device);

// Blocks of a launch over so many pieces of work; no more than sm_limit, if that is not 0.
unsigned limited_blocks(int64_t work, int sm_limit);

// May the planner cut the keys as it likes?
bool splits_freely(const Problem& problem);

// Key splits that the caller asks for, or 1 where the planner may not cut; 0: it may.
int asked_splits(const Problem& problem, int tile_k);

// Keys of a split where the caller set split_size, rounded up to whole tiles; else 0.
int split_keys_of(const Problem& problem, int tile_k);

// Of one item's partial result.
size_t partial_bytes(const Problem& problem, int tile_q);

// Cuts a run into items of `tile_q` rows and `splits` key ranges, for shaped parameters.
void cut_into_items(const Problem& problem, int tile_q, int tile_k, int splits, ForwardParams* params);

// Sets how many heads are swept together, after cut_into_items.
void set_section(int section, ForwardParams* params);

// Head dims as matrix instructions multiply them.
inline int round_up_16(int64_t x) { return static_cast<int>((x + 15) / 16 * 16); }

// Keys that a query row can see at most.
int64_t visible_keys(const Problem& problem);

}  // namespace flash_attn::cuda
