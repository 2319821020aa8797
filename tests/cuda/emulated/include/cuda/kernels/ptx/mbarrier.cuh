// Emulated: transaction barriers by their definition in the PTX ISA. Bulk copies under way arrive while someone waits.
#pragma once

#include "emulated_block.h"

namespace flash_attn::cuda {

inline unsigned shared_address(const void* p) {
  return static_cast<unsigned>(static_cast<const unsigned char*>(p) - shared_memory);
}

struct EmulatedBarrier {
  int bytes;  // expected and not arrived
  unsigned arrivals : 12, pending : 12, phase : 1;
};
inline EmulatedBarrier& barrier_at(unsigned address) {
  if (address % 8 != 0 || address + 8 > emulated::kSharedBytes) emulated::fail("wrong barrier address", address);
  return *reinterpret_cast<EmulatedBarrier*>(shared_memory + address);
}
inline void barrier_turn(EmulatedBarrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.phase ^= 1;
  barrier.pending = barrier.arrivals;
}

inline void barrier_init(unsigned address, unsigned arrivals) {
  EmulatedBarrier& barrier = barrier_at(address);
  barrier.bytes = 0;
  barrier.arrivals = barrier.pending = arrivals;
  barrier.phase = 0;
}
inline void barrier_init_fence() {}

inline void barrier_arrive(unsigned address) {
  EmulatedBarrier& barrier = barrier_at(address);
  if (barrier.pending == 0) emulated::fail("more arrivals than a barrier has, at", address);
  --barrier.pending;
  barrier_turn(barrier);
}
inline void barrier_arrive_expect(unsigned address, unsigned bytes) {
  barrier_at(address).bytes += static_cast<int>(bytes);
  barrier_arrive(address);
}
inline void barrier_complete(unsigned address, unsigned bytes) {
  EmulatedBarrier& barrier = barrier_at(address);
  barrier.bytes -= static_cast<int>(bytes);
  barrier_turn(barrier);
}

inline void barrier_wait(unsigned address, unsigned parity) {
  if (parity > 1) emulated::fail("a parity is 0 or 1, not", parity);
  while (barrier_at(address).phase == parity) {
    emulated::run_delayed();
    emulated::yield_block();
  }
  emulated::note_progress();
}

}  // namespace flash_attn::cuda
