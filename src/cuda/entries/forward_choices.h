// What the planners of the forward kernels ask of a problem alike: which limits and features its scores have, how its rows are
// aligned, and when cutting the keys pays. Pure functions of the problem.
#pragma once

#include "core/problem.h"
#include "cuda/kernels/configs.h"

#include <cstdint>

namespace flash_attn::cuda {

KeyMask key_mask_of(const Problem& problem);

// The maximum of products is that of scores only under a positive scale, neither tiny nor huge.
bool scales_scores(const Problem& problem);

// Largest unit in which every row of a tensor begins: 16, 8, 4 or the element. `element` and `alignment` in bytes.
int access_of(const Axes& axes, int64_t element, int64_t alignment);

// Do rows of o begin at multiples of two elements?
bool writes_pairs(const Problem& problem);

// May the planner cut the keys as it likes?
bool splits_freely(const Problem& problem);

// Keys that a query row can see at most.
int64_t visible_keys(const Problem& problem);

}  // namespace flash_attn::cuda
