// One thread block on the CPU. Every CUDA thread is a fiber, and fibers change only where a thread
// would wait: there is no parallelism, so a run is repeatable and an error names its thread.
//
// What a model of some instructions (ampere.h, hopper.h) builds on:
//   fail(text)                     the kernel is wrong: emulate() returns the text and its thread
//   shared_at(address, bytes)      host pointer to shared memory; fails outside the block's own
//   wait_until(what, ready)        let others run until ready(); all threads waiting is a deadlock
//   together(r, place, n, what, given, act)
//                                  meet n threads at Rendezvous r; the last to come calls
//                                  act(given of all, by place) and then all go on
//   warp_together(what, given, act), warpgroup_together(what, given, act)
//                                  the same for the 32 threads of a warp, the 128 of a warpgroup
//   Background                     work done asynchronously: issue, commit a group, wait(left)
//   counted.name += 1              a counter of the list EMULATOR_COUNTERS
//   before_block(action)           run at the start of every block, to reset a model's own state
//   block, fiber(), warp_index(), lane_index(), late, random_below(n), progress()
//
// Modes. eager: background work happens at once, warps run in order. late: background work happens
// when the program waits for it and no earlier, its destination holds NaN until then, and warps run
// in an order drawn anew each time. A correct kernel cannot tell the difference.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long i64;

struct Index3 {
  u32 x = 1, y = 1, z = 1;
};
extern Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emu {

// Instructions of a warp count once. `shared_cycles` is the time for which they keep shared memory
// busy, of which `bank_conflicts` would not be needed if every cycle moved 128 bytes.
#define EMULATOR_COUNTERS(X)                                                             \
  X(mma) X(ldmatrix) X(shared_loads) X(shared_stores) X(cp_async) X(shared_cycles)       \
  X(bank_conflicts) X(barriers) X(wgmma) X(tma_bytes) X(mbarrier_waits)

struct Counters {
#define DECLARE(name) u64 name = 0;
  EMULATOR_COUNTERS(DECLARE)
#undef DECLARE
};

constexpr u32 SHARED_BASE = 1024;  // so that address 0 is never valid
constexpr unsigned char POISON = 0xff;  // NaN as bfloat16, half and float

using Action = std::function<void()>;
struct Error {
  std::string text;
};

extern bool late;
extern Counters counted;

// Work in the background, in groups that end in the order they were committed.
struct Background {
  std::vector<Action> open;
  std::deque<std::vector<Action>> groups;

  void issue(Action action);
  void commit();
  void wait(size_t left);  // until so many groups are not done
};

struct Fiber {
  jmp_buf here;
  ucontext_t start;
  bool started = false, done = false;
  const char* waits_at = "";
  Background copies;  // cp.async
  u64 requests = 0;   // loads and stores of shared memory so far
};

struct Rendezvous {
  int arrived = 0;
  u64 round = 0;
  const char* what = "";
  std::vector<void*> given;
};

// The k-th access of each of the 32 threads of a warp is one request of the warp.
struct Request {
  u32 addresses[32];
  int threads = 0, bytes = 0;
};
struct Traffic {
  std::deque<Request> open;
  u64 done = 0;
};

struct Block {
  char* shared;
  size_t shared_bytes;
  int threads, alive;
  Action body;
  std::vector<Fiber> fibers;
  std::vector<Rendezvous> warps, warpgroups;
  std::vector<Traffic> traffic;  // of each warp
  Rendezvous all;
  u64 steps = 0;  // grows whenever a thread gets anywhere
  u64 random = 1;
  std::string error;
};

extern Block* block;

Fiber& fiber();  // of the thread that runs
inline int warp_index() { return threadIdx.x / 32; }
inline int lane_index() { return threadIdx.x % 32; }
inline void progress() { block->steps++; }
u32 random_below(u32 n);

[[noreturn]] void fail(const std::string& text);
char* shared_at(u32 address, u32 bytes);
void before_block(Action action);

void yield();
void wait_until(const char* what, const std::function<bool()>& ready);

using Act = std::function<void(void** given)>;
void together(Rendezvous& r, int place, int n, const char* what, void* given, const Act& act);
void warp_together(const char* what, void* given, const Act& act);
void warpgroup_together(const char* what, void* given, const Act& act);

// Count the cycles of one request: of n threads, for so many bytes each.
void count_request(const u32* addresses, int n, int bytes);
// Count one thread's part of its warp's request. Threads need not wait for their warp here.
void count_access(u32 address, int bytes);

// Run `body` as every thread of every block of the grid, one block after the other.
void launch(Index3 grid, int threads, size_t shared_bytes, const Action& body);

}  // namespace emu
