// The instructions of hopper.cuh on the CPU, from their definitions in the PTX manual. In the late
// mode a copy lands when somebody waits for its barrier and no earlier, and a product is computed,
// warp by warp, when the warp waits for it: until then its operands must stay as they are.
#pragma once
#include "block.h"

namespace emu {

// What for_emulator() of hopper.py writes into a TensorMap. Axes: column, row, head, batch.
struct Described {
  const char* base;
  i64 size[4];
  i64 stride[4];  // bytes
  int box[4];
};

struct Barrier {
  int arrivals = 0, pending = 0;
  i64 bytes = 0;  // expected and not yet copied
  u32 phase = 0;
  bool known = false;  // to the TMA
  std::vector<Action> copies;
};

struct Named {
  int come = 0, threads = 0;
  u64 round = 0;
};

struct Products {  // of one warp
  Background work;
  bool fenced = false;
};

static std::map<u32, Barrier> mbarriers;
static Named named[16];
static std::vector<Products> products;
static int spare_registers;
static const bool reset_hopper = (before_block([] {
  mbarriers.clear();
  std::fill(named, named + 16, Named());
  products.assign(block->warps.size(), Products());
  spare_registers = 0;
}), true);

// Lets the other warps go on for a while, so that they do whatever this thread has just allowed.
// (Progress before the first yield brings the warp's turn round once more, the second ends it.)
inline void step_aside() {
  for (int turns = late ? random_below(4) : 0; turns > 0; --turns) {
    progress();
    yield();
    yield();
  }
  progress();
}

// ---- mbarriers

inline Barrier& mbarrier_at(u32 address) {
  if (address % 8) fail("an mbarrier must lie at a multiple of 8 bytes");
  shared_at(address, 8);
  auto found = mbarriers.find(address);
  if (found == mbarriers.end()) fail("this mbarrier was never initialised");
  return found->second;
}

inline void end_phase_if_complete(Barrier& b) {
  if (b.pending || b.bytes) return;
  b.phase ^= 1;
  b.pending = b.arrivals;
  progress();
}

inline void arrive(u32 address, u32 bytes) {
  Barrier& b = mbarrier_at(address);
  if (b.pending == 0) fail("mbarrier: more arrivals than the phase has");
  b.bytes += bytes;
  if (b.bytes >= 1 << 20) fail("mbarrier: more bytes expected than it can count");
  b.pending--;
  end_phase_if_complete(b);
}

inline bool phase_over(u32 address, u32 parity) {
  Barrier& b = mbarrier_at(address);
  if ((b.phase & 1) == parity) {
    auto landing = std::move(b.copies);
    b.copies.clear();
    for (auto& copy : landing) copy();
  }
  return (b.phase & 1) != parity;
}

// ---- 128-byte swizzle: the chunk of 16 bytes within a line of 128 is exchanged with the one whose
// number differs from it by the line's number modulo 8. Bits 4 to 6 of an address, from 7 to 9.

inline u32 swizzled(u32 address) { return address ^ (address >> 7 & 7) << 4; }
inline float element_at(u32 address) {
  u16 bits;
  memcpy(&bits, shared_at(swizzled(address), 2), 2);
  return from_element(bits);
}

// ---- TMA

// Copies one box, zeros where it reaches beyond the tensor.
inline void copy_box(const Described& from, u32 target, const int (&start)[4]) {
  for (int row = 0; row < from.box[1]; ++row)
    for (int column = 0; column < from.box[0]; ++column) {
      const i64 at[4] = {start[0] + column, start[1] + row, start[2], start[3]};
      i64 offset = 0;
      bool inside = true;
      for (int axis = 0; axis < 4; ++axis) {
        offset += at[axis] * from.stride[axis];
        inside &= at[axis] >= 0 && at[axis] < from.size[axis];
      }
      u16 bits = 0;
      if (inside) memcpy(&bits, from.base + offset, 2);
      memcpy(shared_at(swizzled(target + 128 * row + 2 * column), 2), &bits, 2);
    }
}

// ---- wgmma

// Where element (k, n) of B, or (k, row) of A, is; see `descriptor` in hopper.cuh.
struct Matrix {
  u32 start, leading, stride;

  explicit Matrix(u64 descriptor)
      : start((descriptor & 0x3fff) << 4),
        leading((descriptor >> 16 & 0x3fff) << 4),
        stride((descriptor >> 32 & 0x3fff) << 4) {
    if (descriptor >> 62 != 1) fail("wgmma: only the 128-byte swizzle is modelled");
    if (descriptor >> 49 & 7) fail("wgmma: a base offset is not modelled");
  }
  float summed_contiguous(int k, int n) const {
    if (start % 128 + 2 * k >= 128) fail("wgmma: the operand runs past its line of 128 bytes");
    return element_at(start + n / 8 * stride + n % 8 * 128 + 2 * k);
  }
  float other_contiguous(int k, int n) const {
    return element_at(start + n / 64 * leading + n % 64 * 2 + k / 8 * stride + k % 8 * 128);
  }
};

// d += a b, or d = a b without `keep`, for the sixteen rows of one warp.
template <int N>
__attribute__((optimize("O3"))) void multiply(float* (&d)[32], const float (&a)[16][16],
                                               const float (&b)[16][N], bool keep) {
  counted.wgmma += warp_index() % 4 == 0;
  for (int row = 0; row < 16; ++row) {
    float sum[N] = {};
    float* rows[4];  // of the four threads that hold this row
    for (int i = 0; i < 4; ++i) rows[i] = d[row % 8 * 4 + i];
    if (keep)
      for (int n = 0; n < N; ++n) sum[n] = rows[n % 8 / 2][n / 8 * 4 + row / 8 * 2 + n % 2];
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < N; ++n) sum[n] += a[row][k] * b[k][n];
    for (int n = 0; n < N; ++n) rows[n % 8 / 2][n / 8 * 4 + row / 8 * 2 + n % 2] = sum[n];
  }
}

// What a thread brings to a product. A comes by descriptor, or in registers.
struct Operands {
  float* d;
  const u32* a;
  u64 descriptor_a, descriptor_b;
  int keep;
};

// All four warps of the warpgroup must issue the same product; each gets its own rows of it.
template <int N, class ElementOfA, class ElementOfB>
void issue_product(Operands mine, ElementOfA element_of_a, ElementOfB element_of_b) {
  warpgroup_together("wgmma", &mine, [](void** all) {
    const Operands& first = *(Operands*)all[0];
    for (int i = 1; i < 128; ++i) {
      const Operands& other = *(Operands*)all[i];
      if (other.descriptor_a != first.descriptor_a || other.descriptor_b != first.descriptor_b ||
          other.keep != first.keep)
        fail("wgmma: the threads of the warpgroup differ in their operands");
    }
  });
  warp_together("wgmma", &mine, [=](void** all) {
    Products& own = products[warp_index()];
    if (!own.fenced) fail("wgmma: no wgmma_fence since the registers were last free to be used");
    std::vector<Operands> threads;
    for (int i = 0; i < 32; ++i) threads.push_back(*(Operands*)all[i]);
    own.work.issue([=] {
      float a[16][16], b[16][N];
      float* d[32];
      for (int i = 0; i < 32; ++i) d[i] = threads[i].d;
      for (int k = 0; k < 16; ++k) {
        for (int row = 0; row < 16; ++row) a[row][k] = element_of_a(threads, row, k);
        for (int n = 0; n < N; ++n) b[k][n] = element_of_b(threads[0], k, n);
      }
      multiply<N>(d, a, b, threads[0].keep);
    });
  });
}

}  // namespace emu

// ---- what the kernels call

inline void barrier_init(u32 barrier, int arrivals) {
  emu::shared_at(barrier, 8);
  emu::Barrier& b = emu::mbarriers[barrier] = emu::Barrier();
  b.arrivals = b.pending = arrivals;
}
inline void barrier_init_fence() {
  for (auto& [address, barrier] : emu::mbarriers) barrier.known = true;
}
inline void barrier_arrive(u32 barrier) {
  emu::arrive(barrier, 0);
  emu::step_aside();
}
inline void barrier_arrive_expecting(u32 barrier, u32 bytes) { emu::arrive(barrier, bytes); }
inline void barrier_wait(u32 barrier, u32 parity) {
  emu::counted.mbarrier_waits++;
  emu::wait_until("mbarrier", [=] { return emu::phase_over(barrier, parity); });
}

inline void tma_load(u32 target, const TensorMap* map, u32 barrier, int column, int row, int head,
                     int batch) {
  using namespace emu;
  Described from;
  memcpy(&from, map, sizeof from);
  const u32 bytes = from.box[0] * from.box[1] * 2;
  if (from.box[0] != 64 || target % 1024)
    fail("TMA: a swizzled box is 64 columns wide and begins at a multiple of 1024 bytes");
  if (!mbarrier_at(barrier).known) fail("TMA: no barrier_init_fence came after barrier_init");
  counted.tma_bytes += bytes;
  if (late) memset(shared_at(target, bytes), POISON, bytes);
  const auto copy = [=] {
    copy_box(from, target, {column, row, head, batch});
    Barrier& b = mbarrier_at(barrier);
    b.bytes -= bytes;
    end_phase_if_complete(b);
  };
  if (late) mbarrier_at(barrier).copies.push_back(copy);
  else copy();
}

inline void wgmma_fence() { emu::products[emu::warp_index()].fenced = true; }
inline void wgmma_commit() {
  emu::warp_together("wgmma_commit", nullptr,
                     [](void**) { emu::products[emu::warp_index()].work.commit(); });
}
template <int PENDING, class... Arrays>
void wgmma_wait(Arrays&...) {
  emu::warp_together("wgmma_wait", nullptr, [](void**) {
    emu::Products& own = emu::products[emu::warp_index()];
    own.work.wait(PENDING);
    own.fenced = false;
  });
}

template <int N>
struct Wgmma {
  static void ss(float (&d)[N / 2], u64 a, u64 b, int keep) {
    emu::issue_product<N>(
        {d, nullptr, a, b, keep},
        [warp = emu::warp_index() % 4](auto& threads, int row, int k) {
          return emu::Matrix(threads[0].descriptor_a).summed_contiguous(k, 16 * warp + row);
        },
        [](auto& thread, int k, int n) {
          return emu::Matrix(thread.descriptor_b).summed_contiguous(k, n);
        });
  }
  // Thread 4 (row % 8) + k % 8 / 2 holds element (row, k) of A, in register row / 8 + 2 (k / 8).
  static void rs(float (&d)[N / 2], const u32* a, u64 b, int keep) {
    emu::issue_product<N>(
        {d, a, 0, b, keep},
        [](auto& threads, int row, int k) {
          const u32 pair = threads[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
          return emu::from_element(u16(pair >> 16 * (k % 2)));
        },
        [](auto& thread, int k, int n) {
          return emu::Matrix(thread.descriptor_b).other_contiguous(k, n);
        });
  }
};

// Registers come from a pool that a block has for itself: whoever takes waits until there are
// enough.
namespace emu {
inline int registers_at_start() { return 65536 / block->threads / 8 * 8; }
inline void change_registers(int to, const char* what) {
  const int more = (to - registers_at_start()) * 128;
  warpgroup_together(what, nullptr, [](void**) {});
  if (threadIdx.x % 128 == 0) {
    wait_until("setmaxnreg", [=] { return spare_registers >= more; });
    spare_registers -= more;
  }
  warpgroup_together(what, nullptr, [](void**) {});
}
}  // namespace emu
template <int REGISTERS>
void registers_take() {
  static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256);
  emu::change_registers(REGISTERS, "registers_take");
}
template <int REGISTERS>
void registers_give() {
  static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256);
  emu::change_registers(REGISTERS, "registers_give");
}

namespace emu {
inline void come(int id, int threads, bool stay) {
  if (id < 1 || id > 15) fail("named barriers have the numbers 1 to 15");
  Named& n = named[id];
  if (n.come && n.threads != threads) fail("named barrier: threads disagree on how many they are");
  n.threads = threads;
  const u64 round = n.round;
  if (++n.come == threads) {
    counted.barriers++;
    n.come = 0;
    n.round++;
    progress();
  } else if (stay) {
    wait_until("named barrier", [&n, round] { return n.round != round; });
  }
}
}  // namespace emu
inline void named_sync(int id, int threads) { emu::come(id, threads, true); }
inline void named_arrive(int id, int threads) { emu::come(id, threads, false); }
