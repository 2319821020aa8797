// The CUDA vocabulary for a host compiler: kernels of src/cuda/kernels, but for their ptx/, compile against this and run one block
// at a time, every thread a fiber. Collective operations switch among the fibers of a warp, barriers among those of the block.
#pragma once

#include <math.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __device__
#define __global__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__
#define __align__(bytes)
#define __syncthreads() ::emulated::sync_block()
#define __syncwarp() ::emulated::sync_warp()

struct uint3 {
  unsigned x, y, z;
};
struct int2 {
  int x, y;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint4 {
  unsigned x, y, z, w;
};

extern uint3 threadIdx, blockIdx, gridDim;

namespace emulated {

constexpr unsigned kSharedBytes = 232448;

// A copy that is under way: it happens when its thread waits for its group. Until then the target holds NaN.
struct Copy {
  unsigned char* target;
  const void* source;
  int bytes, valid;
};
struct Thread {
  void* stack_pointer = nullptr;
  bool is_done = false;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
  std::vector<std::function<void()>> stores;    // bulk stores that nobody has waited for
  std::vector<std::function<void()>> products;  // of wgmma, likewise; an empty one closes a group
  unsigned waits = 0;                           // for them so far
};

Thread& this_thread();
unsigned this_lane();
// 64 bytes that lane `lane` of this warp shows to the others between two sync_warp().
void* lane_slot(unsigned lane);
void sync_warp();
void sync_block();
void sync_group();  // of 128 threads
void named_barrier(int barrier, int threads, bool waits);
void yield_block();
void note_progress();
// Work that other hardware does: a bulk copy arrives some time after it was issued.
void delay(std::function<void()> work);
void run_delayed();
// Ends the program, saying what the kernel did wrong.
[[noreturn]] void fail(const char* what, unsigned long long value);

void run_block(unsigned threads, void (*kernel)(const void*), const void* params);

template <class T>
T exchange(T mine, unsigned lane) {
  T theirs;
  std::memcpy(lane_slot(this_lane()), &mine, sizeof(T));
  sync_warp();
  std::memcpy(&theirs, lane_slot(lane), sizeof(T));
  sync_warp();
  return theirs;
}

}  // namespace emulated

namespace flash_attn::cuda {
extern unsigned char shared_memory[];
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a < b ? b : a; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a < b ? b : a; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float __int_as_float(unsigned bits) { return __uint_as_float(bits); }
inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float __fdividef(float a, float b) { return a / b; }
inline float __shfl_sync(unsigned, float x, int lane) { return emulated::exchange(x, static_cast<unsigned>(lane) % 32); }
inline unsigned __shfl_xor_sync(unsigned, unsigned x, int bits) {
  return emulated::exchange(x, emulated::this_lane() ^ static_cast<unsigned>(bits));
}
inline int __shfl_sync(unsigned, int x, int lane) { return emulated::exchange(x, static_cast<unsigned>(lane) % 32); }
inline unsigned __shfl_sync(unsigned, unsigned x, int lane) { return emulated::exchange(x, static_cast<unsigned>(lane) % 32); }
inline float __shfl_xor_sync(unsigned, float x, int bits) {
  return emulated::exchange(x, emulated::this_lane() ^ static_cast<unsigned>(bits));
}
inline bool __any_sync(unsigned, bool x) {
  *static_cast<bool*>(emulated::lane_slot(emulated::this_lane())) = x;
  emulated::sync_warp();
  bool any = false;
  for (unsigned lane = 0; lane < 32; ++lane) any = any || *static_cast<bool*>(emulated::lane_slot(lane));
  emulated::sync_warp();
  return any;
}
inline unsigned __ballot_sync(unsigned, bool x) {
  *static_cast<bool*>(emulated::lane_slot(emulated::this_lane())) = x;
  emulated::sync_warp();
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < 32; ++lane) ballot |= *static_cast<bool*>(emulated::lane_slot(lane)) ? 1u << lane : 0u;
  emulated::sync_warp();
  return ballot;
}
inline unsigned atomicAdd(unsigned* at, unsigned x) {
  const unsigned before = *at;
  *at += x;
  return before;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __syncthreads_or(int x) {
  static int any;
  if (threadIdx.x == 0) any = 0;
  emulated::sync_block();
  any |= x;
  emulated::sync_block();
  return any;
}
