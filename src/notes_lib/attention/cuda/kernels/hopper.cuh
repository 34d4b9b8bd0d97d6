// What Hopper (sm_90a) adds, as thin wrappers round its PTX: copies of whole tiles by the tensor
// memory accelerator (TMA), barriers that count bytes, and matrix products issued by a warpgroup of
// four warps that run on while the warps do something else.
// Under EMULATE the same names are computed on the CPU (emulator/hopper.h).
#pragma once
#include "attention.cuh"

#define WARPGROUP 128  // threads

// Describes a tensor to the TMA; the host writes it, the kernel only passes its address on. CUDA 12
// aligned it to 64 bytes, CUDA 13 to 128: the compiler places kernel arguments accordingly.
struct alignas(128) TensorMap {
  u64 opaque[16];
};

// A tile in shared memory is cut into panels of 64 columns, so that one row of a panel is a line of
// 128 bytes and eight rows a square of 1024. The TMA writes 16-byte chunk c of row r at place c ^
// (r % 8) of its line (the "128-byte swizzle"), and wgmma reads it back the same way: eight rows of
// one column then lie in eight different groups of banks. Both look at address bits, so every panel
// must begin at a multiple of 1024 bytes.
//
// wgmma finds a tile through a descriptor: start address, two distances and the kind of swizzle, in
// units of 16 bytes. What the distances mean depends on which axis is contiguous (PTX ISA, "Leading
// dimension byte offset" and "Stride dimension byte offset" of wgmma's matrix layouts):
//   The summed one ("K-major"; Q and K in S = Q K^T). `stride` leads from eight rows to the next
//   eight, 1024 bytes; `leading` is not looked at where there is a swizzle. Sixteen columns further
//   on is 32 bytes further on in the same line: the swizzle is applied to the sum.
//   The other one ("MN-major"; V in O = P V, where keys are summed and a row of V is columns of O).
//   `stride` leads from eight keys to the next eight, 1024 bytes; `leading` from as many columns as
//   one swizzle spans, eight chunks of 16 bytes, to the next, which is from panel to panel: 128
//   bytes times the keys of the tile.
DEV u64 descriptor(u32 address, u32 leading, u32 stride) {
  const u64 swizzle_128_bytes = 1ull << 62;
  return swizzle_128_bytes | (u64)(stride >> 4) << 32 | (u64)(leading >> 4) << 16 |
         (address & 0x3ffff) >> 4;
}

#ifdef EMULATE
#include "hopper.h"
#else

// ---- mbarriers: a count of arrivals and of bytes still to come; when both are complete the phase
// ends, its parity flips and the counts start anew.

DEV void barrier_init(u32 barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes the initialised barriers known to the TMA; __syncthreads makes them known to the threads.
DEV void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

DEV void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and lets the phase end only once this many bytes have been copied in.
DEV void barrier_arrive_expecting(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

DEV bool barrier_try_wait(u32 barrier, u32 parity) {
  u32 over;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(over)
      : "r"(barrier), "r"(parity)
      : "memory");
  return over;
}

// Returns when the phase of this parity is over. The phase before the first counts as one of
// parity 1, so whoever waits for parity 1 first does not wait.
DEV void barrier_wait(u32 barrier, u32 parity) {
  while (!barrier_try_wait(barrier, parity)) {
  }
}

// ---- TMA: one thread asks, the copy engine fetches a box of the tensor; what lies outside the
// tensor is filled with zeros, and counts as bytes all the same.

DEV void tma_load(u32 target, const TensorMap* map, u32 barrier, int column, int row, int head,
                  int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(target),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(head), "r"(batch)
      : "memory");
}

// ---- wgmma: asynchronous. The fence orders earlier writes of registers (accumulator, A) before
// the products; commit closes a group; wait<N> returns when all but the last N groups are done.

DEV void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEV void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// After the wait the registers that the products used, accumulators and A, pass through an empty
// instruction that might change them. The compiler takes a product for done when it is issued, and
// without this might read the accumulator, or use the registers of A for something else, too early.
template <int N> DEV void through(float (&registers)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int N> DEV void through(u32 (&registers)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}
template <int PENDING, class... Arrays> DEV void wgmma_wait(Arrays&... used) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
  (through(used), ...);
}

#if HALF
#define WGMMA_TYPES "f16.f16"
#else
#define WGMMA_TYPES "bf16.bf16"
#endif
#include "wgmma.cuh"  // class Wgmma<n>, from wgmma.py

// ---- Warp specialisation: warpgroups trade registers, and take turns at barriers 1 to 15.

template <int REGISTERS> DEV void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS> DEV void registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// The barrier opens when `threads` threads have come, whether they wait for it or only arrive.
DEV void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
DEV void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#endif
