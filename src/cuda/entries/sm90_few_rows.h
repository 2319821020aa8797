// The choices of the Hopper forward kernel where query rows are few, decoding above all, or keys are very few, and how keys are
// split and the parts merged. Functions of the problem and the device alone.
#pragma once

#include "core/backend.h"
#include "core/problem.h"
#include "cuda/device.h"
#include "cuda/kernels/sm90_configs.h"

#include <cstddef>
#include <cstdint>

namespace flash_attn::cuda {

// Tiles of query rows of all requests, and rows of one; `packs`: the query heads of a key head are stacked.
int64_t count_tiles(const Problem& problem, bool packs, int tile_q);
int64_t rows_of_tile(const Problem& problem, bool packs, int tile_q);

constexpr int64_t kFewKeys = 64;

// Over kFewKeys at most: three blocks of 64 rows share a multiprocessor, however many rows there are. False, and nothing changed,
// where registers or shared memory are too few for that.
bool tile_few_keys(const Problem& problem, const DeviceInfo& device, bool is_heavy, Sm90ForwardConfig* config);

// A tile of few rows waits for memory: as much of it as can be is on its way, and items are drawn, since multiprocessors get
// unequal shares of the bandwidth. Two blocks share a multiprocessor over one or two blocks of keys.
void tile_few_rows(const Problem& problem, const DeviceInfo& device, bool packs, bool is_heavy, Sm90ForwardConfig* config);

// Few tiles over many keys leave multiprocessors idle: cut the keys so that about every one has work.
int choose_splits_sm90(const Problem& problem, const DeviceInfo& device, bool packs, const Sm90ForwardConfig& config);

// State: the item counter, and the finished splits of tiles behind it.
constexpr size_t kSm90CounterBytes = 2 * sizeof(unsigned);
// Partial results of so many rows, as the kernel itself merges them.
size_t part_bytes_sm90(int64_t rows, int64_t d_v);
WorkspaceSize bound_sm90_workspace(const Problem& maxima, const DeviceInfo& device);

}  // namespace flash_attn::cuda
