// Tiles of D columns in shared memory on Hopper, their products, and the barriers that guard them.
// The work is divided as CUTLASS and FlashAttention-3 do: a warpgroup that copies, the producer,
// and two that compute, the consumers, each with 64 rows of its own.
#pragma once
#include "hopper.cuh"

#define CONSUMERS 2
#define ROWS (64 * CONSUMERS)
#define THREADS (WARPGROUP * (CONSUMERS + 1))

constexpr u32 LINE = 128;  // bytes of a row of a panel, 64 elements
constexpr int PANELS = D / 64;
DEV constexpr u32 tile_bytes(int rows) { return rows * D * 2; }

// The same address. Shared memory starts where SHARED asks for on every driver known, but no manual
// promises it; anywhere else the swizzle would take the chunks of a tile for one another.
DEV u32 aligned(u32 start) {
  if (start % 1024) __trap();
  return start;
}

// Tiles that come one after the other through a ring of stages, as one role sees them. Each stage
// has two barriers of 8 bytes: the phases of `full` end when a tile has landed, those of `free`
// when all who read it are done with it. `parity` is that of the lap. Whoever fills the stages
// waits for the free ones of the lap before: in the first lap, not at all.
template <int STAGES> struct Ring {
  u32 tiles, bytes, barriers;
  int stage = 0;
  u32 parity = 0;

  DEV Ring(u32 tiles, u32 bytes, u32 barriers) : tiles(tiles), bytes(bytes), barriers(barriers) {}
  DEV void initialise(int fillers, int readers) const {
    for (int i = 0; i < STAGES; ++i) {
      barrier_init(barriers + 8 * i, fillers);
      barrier_init(barriers + 8 * (STAGES + i), readers);
    }
  }
  DEV u32 tile() const { return tiles + stage * bytes; }
  DEV u32 full() const { return barriers + 8 * stage; }
  DEV u32 free() const { return barriers + 8 * (STAGES + stage); }
  DEV void await_full() const { barrier_wait(full(), parity); }
  DEV void await_free() const { barrier_wait(free(), parity ^ 1); }
  DEV void next() {
    stage = (stage + 1) % STAGES;
    parity ^= stage == 0;
  }
  // Each warp arrives for itself: wgmma_wait answers for its own warp's part of a product only.
  DEV void release() {
    if (threadIdx.x % 32 == 0) barrier_arrive(free());
    next();
  }
};
constexpr u32 BARRIERS_OF_STAGE = 16;  // bytes

// Start to copy LINES rows, from row `row` on, into a tile. By one thread.
template <int LINES>
DEV void load_tile(u32 tile, const TensorMap* map, u32 full, int row, int head, int batch) {
  for (int panel = 0; panel < PANELS; ++panel)
    tma_load(tile + panel * LINES * LINE, map, full, 64 * panel, row, head, batch);
}
// The same into the next stage of a ring, as soon as it is free.
template <int LINES, int STAGES>
DEV void load_next(Ring<STAGES>& ring, const TensorMap* map, int row, int head, int batch) {
  ring.await_free();
  barrier_arrive_expecting(ring.full(), tile_bytes(LINES));
  load_tile<LINES>(ring.tile(), map, ring.full(), row, head, batch);
  ring.next();
}

// An accumulator as wgmma leaves it: a thread holds two rows, r and r + 8 of its warp's sixteen,
// and of every eight columns the same two: acc[i] is in row r + row_of(i), in column 2 (lane % 4) +
// column_of(i).
DEV constexpr int row_of(int i) { return i / 2 % 2 * 8; }
DEV constexpr int column_of(int i) { return i / 4 * 8 + i % 2; }

// acc = A B^T for a tile A of 64 rows and B of N rows; issued, not awaited.
template <int N> DEV void issue_abt(float (&acc)[N / 2], u32 a, u32 b) {
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < D / 16; ++i) {
    const u32 panel = i / 4, column = i % 4 * 32;
    Wgmma<N>::ss(acc, descriptor(a + panel * 64 * LINE + column, 16, 8 * LINE),
                 descriptor(b + panel * N * LINE + column, 16, 8 * LINE), i > 0);
  }
  wgmma_commit();
}

// acc += P B for P, 64 x K, in registers and a tile B of K rows; issued, not awaited: until it is,
// nobody may touch the registers of P, nor those of acc.
template <int K> DEV void issue_pb(float (&acc)[D / 2], const u32 (&p)[K / 4], u32 b) {
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < K / 16; ++i)
    Wgmma<D>::rs(acc, p + 4 * i, descriptor(b + i * 16 * LINE, K * LINE, 8 * LINE), 1);
  wgmma_commit();
}

// An accumulator, rounded, as the left operand of issue_pb: what wgmma leaves in a thread of
// sixteen neighbouring columns is what it wants of them.
template <int N> DEV void to_operand(u32 (&p)[N / 2], const float (&acc)[N]) {
#pragma unroll
  for (int i = 0; i < N / 2; ++i) p[i] = pack(acc[2 * i], acc[2 * i + 1]);
}

template <int N> DEV void set_zero(float (&acc)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) acc[i] = 0;
}

// -inf outside of the span of each row; `column` is that of acc[0]. Done apart from what follows
// and only where it is needed: one branch, where a condition at each element would be as many.
template <int N> DEV void mask(float (&acc)[N], int column, const Span (&seen)[2]) {
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (!seen[i / 2 % 2].holds(column + column_of(i))) acc[i] = -INF;
}

// Write acc, its two rows times by[0] and by[1], to the rows `row` and `row` + 8 if below `end`.
DEV void store_rows(Element* to, i64 stride, int row, int end, const float (&acc)[D / 2],
                    const float (&by)[2]) {
#pragma unroll
  for (int i = 0; i < D / 2; i += 2) {
    const int r = i / 2 % 2;
    Element* place = to + (row + 8 * r) * stride + column_of(i) + 2 * (threadIdx.x % 4);
    if (row + 8 * r < end) *(u32*)place = pack(acc[i] * by[r], acc[i + 1] * by[r]);
  }
}

// Over the four threads of a row.
DEV float row_max(float x) {
  x = max(x, shuffle_xor(x, 1));
  return max(x, shuffle_xor(x, 2));
}
DEV float row_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

// The roles. Three warpgroups share 65536 registers, 168 a thread when the kernel starts; then they
// are dealt out by need, 24 + 2 * 240 = 3 * 168. Of the producer one warp stays, the first.
template <class Produce, class Consume> DEV void specialise(Produce produce, Consume consume) {
  const int warpgroup = threadIdx.x / WARPGROUP;
  if (warpgroup == CONSUMERS) {
    registers_give<24>();
    if (threadIdx.x % WARPGROUP < 32) produce();
  } else {
    registers_take<240>();
    consume(warpgroup);
  }
}
