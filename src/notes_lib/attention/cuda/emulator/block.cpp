// How the threads of a block take turns: see block.h.
#include "block.h"

#include <cstdio>
#include <memory>

Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emu {

bool late = false;
Counters counted;
Block* block;

static Fiber* current;
static jmp_buf scheduler;
constexpr size_t STACK = 128 << 10;

static std::vector<Action>& block_starts() {  // a function, to be there before any initialisation
  static std::vector<Action> starts;
  return starts;
}
void before_block(Action action) { block_starts().push_back(std::move(action)); }

Fiber& fiber() { return *current; }

u32 random_below(u32 n) {
  block->random = block->random * 6364136223846793005ull + 1442695040888963407ull;
  return u32(block->random >> 33) % n;
}

static std::string place() {
  char text[96];
  snprintf(text, sizeof text, "block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
  return text;
}
void fail(const std::string& text) {
  throw Error{place() + ", thread " + std::to_string(threadIdx.x) + ": " + text};
}

char* shared_at(u32 address, u32 bytes) {
  if (address < SHARED_BASE || address - SHARED_BASE + bytes > block->shared_bytes)
    fail("shared memory out of bounds");
  return block->shared + (address - SHARED_BASE);
}

// ---- waiting

void Background::issue(Action action) {
  if (late) open.push_back(std::move(action));
  else action();
}
void Background::commit() {
  groups.push_back(std::move(open));
  open.clear();
}
void Background::wait(size_t left) {
  for (; groups.size() > left; groups.pop_front())
    for (auto& action : groups.front()) action();
}

void yield() {
  if (_setjmp(current->here) == 0) _longjmp(scheduler, 1);
}

void wait_until(const char* what, const std::function<bool()>& ready) {
  current->waits_at = what;
  while (!ready()) yield();
  progress();
}

void together(Rendezvous& r, int place, int n, const char* what, void* given, const Act& act) {
  if (r.arrived == 0) {
    r.what = what;
    r.given.assign(n, nullptr);
  }
  if (r.what != what && strcmp(r.what, what))
    fail(std::string("is at ") + what + ", others are at " + r.what);
  r.given[place] = given;
  const u64 round = r.round;
  if (++r.arrived < n) return wait_until(what, [&] { return r.round != round; });
  act(r.given.data());
  r.arrived = 0;
  r.round++;
  progress();
}
void warp_together(const char* what, void* given, const Act& act) {
  together(block->warps[warp_index()], lane_index(), 32, what, given, act);
}
void warpgroup_together(const char* what, void* given, const Act& act) {
  together(block->warpgroups[threadIdx.x / 128], threadIdx.x % 128, 128, what, given, act);
}

// ---- bank conflicts

// Shared memory has 32 banks of 4 bytes and serves 128 bytes a cycle, of which no two different
// words may lie in one bank.
void count_request(const u32* addresses, int n, int bytes) {
  const int at_once = 128 / std::max(bytes, 4);  // threads served by one cycle
  for (int first = 0; first < n; first += at_once) {
    u32 words[32][32];  // of each bank
    int wanted[32] = {}, most = 1;
    for (int i = first; i < std::min(n, first + at_once); ++i)
      for (u32 word = addresses[i] / 4; word <= (addresses[i] + bytes - 1) / 4; ++word) {
        u32* bank = words[word % 32];
        int& known = wanted[word % 32];
        if (std::find(bank, bank + known, word) == bank + known) bank[known++] = word;
        most = std::max(most, known);
      }
    counted.shared_cycles += most;
    counted.bank_conflicts += most - 1;
  }
}

void count_access(u32 address, int bytes) {
  Traffic& t = block->traffic[warp_index()];
  const size_t k = current->requests++ - t.done;
  if (k >= t.open.size()) t.open.resize(k + 1);
  t.open[k].bytes = bytes;
  t.open[k].addresses[lane_index()] = address;
  t.open[k].threads++;
  for (; !t.open.empty() && t.open.front().threads == 32; t.open.pop_front(), t.done++)
    count_request(t.open.front().addresses, 32, t.open.front().bytes);
}

// ---- running a block

static void thread_main() {
  try {
    block->body();
  } catch (const Error& error) {
    block->error = error.text;
  }
  current->done = true;
  block->alive--;
  progress();
  _longjmp(scheduler, 1);
}

__attribute__((noinline)) static void resume(int thread) {
  current = &block->fibers[thread];
  threadIdx.x = thread;
  if (_setjmp(scheduler)) return;  // the fiber waits, or is done
  if (current->started) _longjmp(current->here, 1);
  current->started = true;
  setcontext(&current->start);
}

static std::string who_waits_where() {
  std::map<std::string, int> waiting;
  for (auto& f : block->fibers)
    if (!f.done) waiting[f.waits_at]++;
  std::string text = "deadlock:";
  for (auto& [where, n] : waiting)
    text += " " + std::to_string(n) + " threads wait at " + where + ",";
  if (block->alive < block->threads)
    text += " " + std::to_string(block->threads - block->alive) + " threads have returned,";
  text.pop_back();
  return text;
}

// A warp runs until none of its threads gets any further, then the next one: the strongest drift
// that missing barriers allow.
static void run_warp(int warp) {
  for (u64 before = ~0ull; before != block->steps && block->error.empty();) {
    before = block->steps;
    for (int t = 32 * warp; t < std::min(32 * warp + 32, block->threads); ++t)
      if (!block->fibers[t].done && block->error.empty()) resume(t);
  }
}

static void run_block() {
  std::vector<int> order(block->warps.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  while (block->alive > 0) {
    const u64 before = block->steps;
    if (late)
      for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random_below(i + 1)]);
    for (int warp : order) run_warp(warp);
    if (!block->error.empty()) throw Error{block->error};
    if (block->steps == before) throw Error{place() + ": " + who_waits_where()};
  }
}

void launch(Index3 grid, int threads, size_t shared_bytes, const Action& body) {
  std::unique_ptr<char[]> memory(new char[shared_bytes + 1024]), stacks(new char[threads * STACK]);
  char* shared = memory.get() + (1024 - (uintptr_t)memory.get() % 1024) % 1024;
  gridDim = grid;
  blockDim = {u32(threads), 1, 1};
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        memset(shared, POISON, shared_bytes);
        Block b{shared, shared_bytes, threads, threads, body};
        b.fibers.resize(threads);
        b.warps.resize((threads + 31) / 32);
        b.traffic.resize(b.warps.size());
        b.warpgroups.resize((threads + 127) / 128);
        block = &b;
        for (auto& start : block_starts()) start();
        for (int i = 0; i < threads; ++i) {
          ucontext_t& context = b.fibers[i].start;
          getcontext(&context);
          context.uc_stack.ss_sp = stacks.get() + i * STACK;
          context.uc_stack.ss_size = STACK;
          context.uc_link = nullptr;
          makecontext(&context, thread_main, 0);
        }
        run_block();
      }
}

}  // namespace emu
