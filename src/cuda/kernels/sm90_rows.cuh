// What a thread of the Hopper kernel needs to know of its two rows to work through an item's blocks.
#pragma once

#include "cuda/kernels/sm90_configs.h"
#include "cuda/kernels/sm90_items.cuh"
#include "cuda/kernels/sm90_softmax.cuh"
#include "cuda/kernels/tile/scores.cuh"

namespace flash_attn::cuda {

template <class Config>
struct Sm90Rows {
  static constexpr Sm90ForwardConfig c = Config::value;
  // From global memory, key by key.
  static constexpr bool kReads = c.bias_dtype != DType::none || (c.has_bool_mask && c.mask_warps() == 0);
  static constexpr bool kOpensScores = c.has_alibi || c.has_tree || kReads;

  Limits limits[2];  // less the thread's first column
  ScoreRow<c> score[2];
  int last, tree_prefix;
  int clear_first, clear_last;  // blocks that need no mask for any row of the group
  int seen_first;               // first block that a row of the group sees anything of, first keys aside (interval)
  int left_last, right_first;   // blocks that lie left of every row's diagonal, and right of it (has_alibi)
  DropoutLane dropout;

  // A query's limits: where keys end at the diagonal, the loader has found how far that is.
  static __device__ __forceinline__ Limits find_limits(const Sm90Item& item, const Request& request, int i) {
    if constexpr (c.mask == KeyMask::right) return {0, clamp_int(i + item.right, 0, item.s_k), 0};
    return limits_of<c.mask>(request.rule, i);
  }

  // The group's rows begin at first_row of the item's tile, the thread's at row_in_group of those and row_in_group + 8.
  __device__ __forceinline__ Sm90Rows(const ForwardParams& p, const Sm90Item& item, int first_row, int row_in_group,
                                      int first_column, const DropoutRounds& rounds) {
    const Request request = request_of(p, item);
    const int stacked = item.s_q * static_cast<int>(p.pack.value), row0 = item.tile * c.tile_q() + first_row;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (c.mask != KeyMask::none || kOpensScores) {
        const RowPlace place = place_of(p, item.slot, min(row0 + row_in_group + 8 * r, max(stacked, 1) - 1));
        limits[r] = find_limits(item, request, place.i);
        if constexpr (kOpensScores) score[r].open(p, request, place);
        if constexpr (c.has_alibi) score[r].slope /= score_unit<c>(p);  // as the scores are kept
      } else {
        limits[r] = {0, item.s_k, 0};
      }
      limits[r].lo -= first_column;
      limits[r].hi -= first_column;
      limits[r].first -= first_column;
    }
    left_last = right_first = 0;
    if constexpr (c.has_alibi) {
      const int row = divide(min(row0, max(stacked, 1) - 1), p.pack), below = divide(min(row0 + 64, max(stacked, 1)) - 1, p.pack);
      const int shift = score[0].diagonal - place_of(p, item.slot, min(row0 + row_in_group, max(stacked, 1) - 1)).i;
      left_last = max(row + shift + 1, 0) / c.tile_k;
      right_first = (max(below + shift, 0) + c.tile_k - 1) / c.tile_k;
    }
    if constexpr (c.has_dropout)
      dropout = dropout_lane(rounds, static_cast<unsigned>(item.request), static_cast<unsigned>(item.slot), row0 + row_in_group,
                             first_column);
    last = item.s_k - 1;
    tree_prefix = static_cast<int>(request.tree_prefix);
    clear_first = seen_first = 0;
    clear_last = item.s_k / c.tile_k;
    if constexpr (c.mask != KeyMask::none) {
      // Limits grow with the row: the group's first row ends first, its last row begins last.
      const Limits top = find_limits(item, request, divide(min(row0, max(stacked, 1) - 1), p.pack));
      clear_last = top.hi / c.tile_k;
      seen_first = top.lo / c.tile_k;
      if constexpr (c.mask == KeyMask::interval) {
        const int bottom = divide(min(row0 + 64, max(stacked, 1)) - 1, p.pack);
        clear_first = (find_limits(item, request, bottom).lo + c.tile_k - 1) / c.tile_k;
      }
    }
    if constexpr (c.has_tree) {
      if (request.is_tree) clear_last = min(clear_last, tree_prefix / c.tile_k);
    }
  }
};

}  // namespace flash_attn::cuda
