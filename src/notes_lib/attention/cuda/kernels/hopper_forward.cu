// v3: FlashAttention-3's schedule (Shah et al. 2024) on Hopper, sm_90a only. Over v2 it has one
// idea more: nobody waits who could compute.
//
//   One warpgroup, the producer, does nothing but ask the TMA for tiles. The others, the consumers,
//   own 64 queries each and do nothing but compute. They meet at barriers: `full` (the tile has
//   landed) and `free` (everybody has read it), a pair for each of two stages of K and of V.
//
//   Within a consumer, O += P V of the last block runs on the tensor cores while the softmax of
//   this block runs on the other units: S of block j is issued first, P V of block j + 1 right
//   behind it.
//
//   Between consumers, turns: only the one whose turn it is issues products, so that while one is
//   at its softmax, the other's products fill the tensor cores ("ping-pong"). It matters because
//   the unit for 2^x is slow: of its 16 results a cycle, against 4096 operations of the tensor
//   cores, a block's exponentials take half as long as its products at D = 128, as long at D = 64.
//
// Two consumers, for with three there are 160 registers for each thread, and S, P and O alone need
// KEYS / 2 + KEYS / 4 + D / 2: 160 at D = 128 with 128 keys a block.
//
// Causal tiles are of unequal length. The longest go first, for as many heads as have their keys
// and values in the L2 cache together (`together`), then those of the next heads. With a grid of
// one block a tile, which is the default, the hardware deals the tiles out: whoever is done gets
// the next. With fewer blocks each takes several, and the next tile's queries are fetched while
// this one's output is stored. Which is faster, a measurement must say.
//
// Ragged ends. The TMA fills with zeros what lies past the last key or query. Keys past the end are
// masked, so that their P is 0, and the rows of V they meet are zeros, not what shared memory held
// before: 0 times NaN cannot happen. Rows past the last query are computed and not stored.
// Only the TMA writes shared memory and only wgmma reads it, both through the asynchronous proxy;
// hence there is no fence.proxy.async, which ordinary stores before either of them would need.
#include "hopper_tiles.cuh"

#define STAGES 2

struct HopperParams {
  TensorMap q, k, v;
  Tensor out;
  float* lse;
  Shape shape;
  int batch, together;
  float scale_log2;
};

// Shared memory: Q of each consumer, the stages of K and of V, their barriers.
struct Shared {
  u32 q, k, v, barriers;

  DEV explicit Shared(u32 start) {
    q = start;
    k = q + CONSUMERS * tile_bytes(64);
    v = k + STAGES * tile_bytes(KEYS);
    barriers = v + STAGES * tile_bytes(KEYS);
  }
  DEV Ring<1> ring_q(int consumer) const {
    const u32 after = barriers + (2 * STAGES + consumer) * BARRIERS_OF_STAGE;
    return {q + consumer * tile_bytes(64), tile_bytes(64), after};
  }
  DEV Ring<STAGES> ring_k() const { return {k, tile_bytes(KEYS), barriers}; }
  DEV Ring<STAGES> ring_v() const {
    return {v, tile_bytes(KEYS), barriers + STAGES * BARRIERS_OF_STAGE};
  }
};

// ---------------------------------------------------------------------------------------- tiles

struct Tile {
  int row, head, batch;   // row: its first query
  int begin, end;         // blocks of keys that its queries see
};

DEV int row_tiles(const HopperParams& p) { return (p.shape.queries + ROWS - 1) / ROWS; }
DEV int tile_count(const HopperParams& p) { return row_tiles(p) * p.shape.heads * p.batch; }

// The tile of this block in its n-th round. Every second round runs backwards, so that it is not
// always the same block that gets the longest.
DEV int tile_index(int round) {
  const int blocks = gridDim.x * gridDim.y * gridDim.z;
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  return round * blocks + (round % 2 ? blocks - 1 - block : block);
}

DEV Tile tile_at(const HopperParams& p, int index) {
  const int rows = row_tiles(p), heads = p.shape.heads;
  const int first = index / (rows * p.together) * p.together;  // head of all batches
  const int width = min(p.together, heads * p.batch - first);
  const int within = index - rows * first, head = first + within % width;
  const int step = within / width;

  Tile tile;
  tile.row = (CAUSAL ? rows - 1 - step : step) * ROWS;
  tile.head = head % heads;
  tile.batch = head / heads;
  tile.begin = keys_seen_by(tile.row, p.shape).first / KEYS;
  tile.end = (keys_seen_by(tile.row + ROWS - 1, p.shape).last + KEYS - 1) / KEYS;
  return tile;
}

// ------------------------------------------------------------------------------------- producer

// Blocks of keys come last to first: if masks are needed at the diagonal and at the end, then at
// once. K runs a block ahead of V, the order in which the consumers use them.
DEV void produce(const HopperParams& p, const Shared& shared) {
  Ring<1> ring_q[CONSUMERS] = {shared.ring_q(0), shared.ring_q(1)};
  Ring<STAGES> ring_k = shared.ring_k(), ring_v = shared.ring_v();
  for (int round = 0; tile_index(round) < tile_count(p); ++round) {
    const Tile tile = tile_at(p, tile_index(round));
    if (tile.begin >= tile.end) continue;
    const int group = p.shape.group_of(tile.head);
#pragma unroll
    for (int c = 0; c < CONSUMERS; ++c)
      load_next<64>(ring_q[c], &p.q, tile.row + 64 * c, tile.head, tile.batch);
    for (int j = tile.end; j >= tile.begin; --j) {
      if (j > tile.begin) load_next<KEYS>(ring_k, &p.k, (j - 1) * KEYS, group, tile.batch);
      if (j < tile.end) load_next<KEYS>(ring_v, &p.v, j * KEYS, group, tile.batch);
    }
  }
}

// ------------------------------------------------------------------------------------ consumers

struct Softmax {
  float m[2], l[2];  // maximum of the scores; sum of the exponentials, of this thread's columns
  float alpha[2];    // exp(m before - m), by which O is to be scaled
};

// S becomes P = exp(S - m) for the new maximum m. O is not touched: P V is still being added to it.
DEV void online_softmax(float (&s)[KEYS / 2], Softmax& state, float scale_log2) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float m = state.m[r];
#pragma unroll
    for (int n = 0; n < KEYS / 8; ++n) m = max(m, max(s[4 * n + 2 * r], s[4 * n + 2 * r + 1]));
    m = row_max(m);
    const float shift = m == -INF ? 0 : m * scale_log2;  // a row may have seen no key yet
    state.alpha[r] = exp2_fast(state.m[r] * scale_log2 - shift);
    state.m[r] = m;
    float l = 0;
#pragma unroll
    for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = s[4 * n + 2 * r + e];
        x = exp2_fast(x * scale_log2 - shift);
        l += x;
      }
    state.l[r] = state.l[r] * state.alpha[r] + l;
  }
}

DEV void scale_rows(float (&o)[D / 2], const float (&by)[2]) {
#pragma unroll
  for (int i = 0; i < D / 2; ++i) o[i] *= by[i / 2 % 2];
}

// out = O / l and lse = m + log l; 0 and -inf for a query that saw no key.
DEV void finish(const HopperParams& p, const Tile& tile, int row, const float (&o)[D / 2],
                const Softmax& state) {
  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float l = row_sum(state.l[r]);
    const int query = row + 8 * r;
    inverse[r] = l == 0 ? 0 : 1 / l;
    if (query < p.shape.queries && threadIdx.x % 4 == 0)
      p.lse[p.shape.row_of(tile.batch, tile.head, query)] =
          l == 0 ? -INF : (state.m[r] * p.scale_log2 + log2_fast(l)) * LN2;
  }
  store_rows(p.out.matrix(tile.batch, tile.head), p.out.row, row, p.shape.queries, o, inverse);
}

DEV void consume(const HopperParams& p, const Shared& shared, int consumer) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  Ring<1> ring_q = shared.ring_q(consumer);
  Ring<STAGES> ring_k = shared.ring_k(), ring_v = shared.ring_v();
  float s[KEYS / 2], o[D / 2];
  u32 weights[KEYS / 4];  // P as the left operand of P V

  auto take_turn = [&] { named_sync(1 + consumer, 2 * WARPGROUP); };
  auto pass_turn = [&] { named_arrive(1 + (consumer + 1) % CONSUMERS, 2 * WARPGROUP); };
  auto start_scores = [&] {
    take_turn();
    issue_abt<KEYS>(s, ring_q.tile(), ring_k.tile());
  };
  auto start_output = [&] {
    ring_v.await_full();
    issue_pb<KEYS>(o, weights, ring_v.tile());
  };

  if (consumer == CONSUMERS - 1) pass_turn();  // to the first
  for (int round = 0; tile_index(round) < tile_count(p); ++round) {
    const Tile tile = tile_at(p, tile_index(round));
    const int first_row = tile.row + 64 * consumer;
    const int row = first_row + 16 * warp + lane / 4;  // and row + 8
    const Span whole = {keys_seen_by(first_row + 63, p.shape).first,
                        keys_seen_by(first_row, p.shape).last};  // seen by all rows: no mask
    const Span seen[2] = {keys_seen_by(row, p.shape), keys_seen_by(row + 8, p.shape)};
    Softmax state = {{-INF, -INF}, {0, 0}};
    set_zero(o);
    auto softmax = [&](int j) {
      if (j * KEYS < whole.first || (j + 1) * KEYS > whole.last)
        mask(s, j * KEYS + lane % 4 * 2, seen);
      online_softmax(s, state, p.scale_log2);
    };

    if (tile.begin < tile.end) {
      ring_q.await_full();
      ring_k.await_full();
      start_scores();
      pass_turn();
      wgmma_wait<0>(s);
      ring_k.release();
      softmax(tile.end - 1);
      to_operand(weights, s);
      if (tile.end - 1 > tile.begin) ring_k.await_full();
      for (int j = tile.end - 2; j >= tile.begin; --j) {
        start_scores();
        start_output();
        pass_turn();
        wgmma_wait<1>(s);  // S is there, P V still on the tensor cores
        ring_k.release();
        softmax(j);
        // The next K is awaited here, not at the top: with nothing but arithmetic before it, ptxas
        // moves the wait for P V up in front of the softmax, and the two no longer overlap.
        if (j > tile.begin) ring_k.await_full();
        wgmma_wait<0>(o, weights);
        ring_v.release();
        scale_rows(o, state.alpha);
        to_operand(weights, s);
      }
      ring_q.release();
      start_output();
      wgmma_wait<0>(o, weights);
      ring_v.release();
    }
    finish(p, tile, row, o, state);
  }
  if (consumer == 0) take_turn();  // the last one passed to it: no barrier ends half full
}

// ---------------------------------------------------------------------------------------- kernel

extern "C" __global__ void __launch_bounds__(THREADS, 1)
hopper_forward(const __grid_constant__ HopperParams p) {
  SHARED(memory);
  const Shared shared(aligned(shared_address(memory)));
  if (threadIdx.x == 0) {
    for (int c = 0; c < CONSUMERS; ++c) shared.ring_q(c).initialise(1, 4);  // four warps read it
    shared.ring_k().initialise(1, 4 * CONSUMERS);
    shared.ring_v().initialise(1, 4 * CONSUMERS);
    barrier_init_fence();
  }
  __syncthreads();
  specialise(
      [&] {
        if (threadIdx.x % 32 == 0) produce(p, shared);
      },
      [&](int consumer) { consume(p, shared, consumer); });
}
