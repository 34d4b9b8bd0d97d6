// v3, backward, on Hopper: the two kernels of v2 (see flash_backward.cu) with the machinery of
// hopper_forward.cu. Each owns its sums in registers, so every sum has one order and two runs agree
// to the last bit; that costs seven products for the five that one kernel with atomic additions to
// dQ would need.
//
// Both walk tiles through a ring of stages. S and dP are issued together: P is computed from S
// while dP is on the tensor cores, and dS from P and dP while dV += P^T dO is. dK, or dQ, is
// awaited at the end of its step: carried over into the next one, it makes ptxas serialise all
// products (C7515). The consumers take no turns: there is less to compute beside the products than
// in the forward pass, and while one waits for its last product the other has work for the tensor
// cores.
//
// Ragged ends. The TMA fills with zeros what lies past the end. A query that does not exist, or
// sees no key, gets lse = inf, so that its P is 0; keys past the end are masked where they are
// summed over (dQ), and are rows that nobody stores where they are not (dK, dV).
#include "hopper_tiles.cuh"

#define STAGES 3
#define TILE tile_bytes(64)  // of a consumer
#define WALKED_TILE tile_bytes(WALKED)

struct HopperBackwardParams {
  TensorMap q, k, v, d_out;  // in boxes of 64 rows, or of WALKED
  Tensor dq, dk, dv;
  const float* lse;
  const float* delta;  // "b h n": rowsum(d_out out), less the gradient of lse
  Shape shape;
  float scale, scale_log2;
};

// Shared memory: two tiles of each consumer, which it owns, the stages, of two tiles each and in
// one kernel of lse and delta, and the barriers.
struct Shared {
  u32 owned, walked, rows, barriers;

  DEV explicit Shared(u32 start) {
    owned = start;
    walked = owned + 2 * CONSUMERS * TILE;
    rows = walked + STAGES * 2 * WALKED_TILE;
    barriers = rows + (DKDV ? STAGES * 2 * WALKED * 4 : 0);
  }
  DEV Ring<1> ring_owned() const {
    return {owned, 2 * CONSUMERS * TILE, barriers + STAGES * BARRIERS_OF_STAGE};
  }
  DEV Ring<STAGES> ring() const { return {walked, 2 * WALKED_TILE, barriers}; }
};

// Rows `first` to `first` + 127 of two tensors: for each consumer 64 of the one, 64 of the other.
DEV void load_owned(const Shared& shared, const TensorMap* one, const TensorMap* other, int first,
                    int head, int batch) {
  const u32 full = shared.ring_owned().full();
  barrier_arrive_expecting(full, 2 * CONSUMERS * TILE);
  for (int c = 0; c < CONSUMERS; ++c) {
    const u32 tile = shared.owned + 2 * c * TILE;
    load_tile<64>(tile, one, full, first + 64 * c, head, batch);
    load_tile<64>(tile + TILE, other, full, first + 64 * c, head, batch);
  }
}

DEV void load_walked(const Ring<STAGES>& ring, const TensorMap* one, const TensorMap* other,
                     int first, int head, int batch) {
  barrier_arrive_expecting(ring.full(), 2 * WALKED_TILE);
  load_tile<WALKED>(ring.tile(), one, ring.full(), first, head, batch);
  load_tile<WALKED>(ring.tile() + WALKED_TILE, other, ring.full(), first, head, batch);
}

#if DKDV
// ------------------------------------------------------------------------------------- dK and dV
// Of 128 keys, 64 a consumer. The block walks the queries that see them, of all heads that share
// them, and keeps scores transposed, S^T = K Q^T: then P^T and dS^T are where the products want
// them.

// The tiles of queries of which some sees a key of the block.
struct Walk {
  int begin, steps, heads;

  DEV Walk(const HopperBackwardParams& p, int first_key) {
    const int last_key = min(first_key + ROWS, p.shape.keys) - 1;
    begin = queries_that_see(first_key, p.shape).first / WALKED;
    const int end = (queries_that_see(last_key, p.shape).last + WALKED - 1) / WALKED;
    steps = max(0, end - begin);
    heads = p.shape.heads / p.shape.groups;
  }
  DEV int count() const { return heads * steps; }
  DEV int head(int t) const { return blockIdx.y * heads + t / steps; }
  DEV int first_query(int t) const { return (begin + t % steps) * WALKED; }
};

// lse, in powers of two, and delta of a tile of queries. Called by a warp, whose every lane then
// arrives at the tile's barrier.
DEV void load_rows(const HopperBackwardParams& p, float* rows, int head, int first) {
  for (int i = threadIdx.x % 32; i < WALKED; i += 32) {
    const bool there = first + i < p.shape.queries;
    const i64 row = p.shape.row_of(blockIdx.z, head, there ? first + i : 0);
    const float lse = there ? p.lse[row] : -INF;
    store_shared(rows + i, lse == -INF ? INF : lse * LOG2E);
    store_shared(rows + WALKED + i, there ? p.delta[row] : 0.f);
  }
}

DEV void produce(const HopperBackwardParams& p, const Shared& shared, float* rows) {
  const int first_key = blockIdx.x * ROWS;
  const Walk walk(p, first_key);
  const bool first_lane = threadIdx.x % 32 == 0;
  if (first_lane) load_owned(shared, &p.k, &p.v, first_key, blockIdx.y, blockIdx.z);
  Ring<STAGES> ring = shared.ring();
  for (int t = 0; t < walk.count(); ++t) {
    const int head = walk.head(t), first = walk.first_query(t);
    ring.await_free();
    if (first_lane) load_walked(ring, &p.q, &p.d_out, first, head, blockIdx.z);
    load_rows(p, rows + ring.stage * 2 * WALKED, head, first);
    barrier_arrive(ring.full());
    ring.next();
  }
}

DEV void consume(const HopperBackwardParams& p, const Shared& shared, const float* rows,
                 int consumer) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int first_key = blockIdx.x * ROWS, own_key = first_key + 64 * consumer;
  const int key = own_key + 16 * warp + lane / 4;  // and key + 8
  const u32 k = shared.owned + 2 * consumer * TILE, v = k + TILE;
  const Span seeing[2] = {queries_that_see(key, p.shape), queries_that_see(key + 8, p.shape)};
  const Span whole = {queries_that_see(own_key + 63, p.shape).first,
                      queries_that_see(own_key, p.shape).last};  // see all keys: no mask
  const Walk walk(p, first_key);
  Ring<STAGES> ring = shared.ring();
  float s[WALKED / 2], dp[WALKED / 2], dk[D / 2], dv[D / 2];
  u32 p_operand[WALKED / 4], ds_operand[WALKED / 4];
  set_zero(dk);
  set_zero(dv);

  shared.ring_owned().await_full();
  for (int t = 0; t < walk.count(); ++t) {
    const u32 q = ring.tile(), d_out = q + WALKED_TILE;
    const float *lse = rows + ring.stage * 2 * WALKED + 2 * (lane % 4), *delta = lse + WALKED;
    const int first = walk.first_query(t);
    const bool edge = first < whole.first || first + WALKED > whole.last;
    ring.await_full();
    issue_abt<WALKED>(s, k, q);
    issue_abt<WALKED>(dp, v, d_out);
    wgmma_wait<1>(s);
    if (edge) mask(s, first + 2 * (lane % 4), seeing);
#pragma unroll
    for (int column = 0; column < WALKED / 4; ++column) {
      const int i = column / 2 * 4 + column % 2;  // and i + 2, in the other row
      const float its_lse = load_shared(lse + column_of(i));
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& x = s[i + 2 * r];
        x = exp2_fast(x * p.scale_log2 - its_lse);
      }
    }
    to_operand(p_operand, s);
    issue_pb<WALKED>(dv, p_operand, d_out);
    wgmma_wait<1>(dp);
#pragma unroll
    for (int column = 0; column < WALKED / 4; ++column) {
      const int i = column / 2 * 4 + column % 2;
      const float its_delta = load_shared(delta + column_of(i));
#pragma unroll
      for (int r = 0; r < 2; ++r) dp[i + 2 * r] = s[i + 2 * r] * (dp[i + 2 * r] - its_delta);
    }
    to_operand(ds_operand, dp);
    issue_pb<WALKED>(dk, ds_operand, q);
    wgmma_wait<0>(dk, dv, p_operand, ds_operand);
    __syncwarp();  // one lane frees the stage, and all have read lse and delta of it
    ring.release();
  }
  store_rows(p.dv.matrix(blockIdx.z, blockIdx.y), p.dv.row, key, p.shape.keys, dv, {1, 1});
  store_rows(p.dk.matrix(blockIdx.z, blockIdx.y), p.dk.row, key, p.shape.keys, dk,
             {p.scale, p.scale});
}

#define KERNEL hopper_backward_dkdv
#define FILLERS 33  // of a stage: the lane that asks the TMA, and all lanes for lse and delta

#else
// -------------------------------------------------------------------------------------------- dQ
// Of 128 queries, 64 a consumer. The block walks the keys that they see.

struct Walk {
  int begin, end;

  DEV Walk(const HopperBackwardParams& p, int first_row) {
    const int last_row = min(first_row + ROWS, p.shape.queries) - 1;
    begin = keys_seen_by(first_row, p.shape).first / WALKED;
    end = (keys_seen_by(last_row, p.shape).last + WALKED - 1) / WALKED;
  }
};

// The last queries first: with a causal mask they have the most keys.
DEV int first_row_of_block() { return (gridDim.x - 1 - blockIdx.x) * ROWS; }

DEV void produce(const HopperBackwardParams& p, const Shared& shared, float*) {
  if (threadIdx.x % 32) return;
  const int first_row = first_row_of_block(), group = p.shape.group_of(blockIdx.y);
  const Walk walk(p, first_row);
  load_owned(shared, &p.q, &p.d_out, first_row, blockIdx.y, blockIdx.z);
  Ring<STAGES> ring = shared.ring();
  for (int j = walk.begin; j < walk.end; ++j) {
    ring.await_free();
    load_walked(ring, &p.k, &p.v, j * WALKED, group, blockIdx.z);
    ring.next();
  }
}

DEV void consume(const HopperBackwardParams& p, const Shared& shared, const float*, int consumer) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int first_row = first_row_of_block(), own_row = first_row + 64 * consumer;
  const int row = own_row + 16 * warp + lane / 4;  // and row + 8
  const u32 q = shared.owned + 2 * consumer * TILE, d_out = q + TILE;
  const Span seen[2] = {keys_seen_by(row, p.shape), keys_seen_by(row + 8, p.shape)};
  const Span whole = {keys_seen_by(own_row + 63, p.shape).first,
                      keys_seen_by(own_row, p.shape).last};  // seen by all rows: no mask
  const Walk walk(p, first_row);
  Ring<STAGES> ring = shared.ring();
  float s[WALKED / 2], dp[WALKED / 2], dq[D / 2], lse[2], delta[2];
  u32 ds_operand[WALKED / 4];
  set_zero(dq);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool there = row + 8 * r < p.shape.queries;
    const i64 place = p.shape.row_of(blockIdx.z, blockIdx.y, there ? row + 8 * r : 0);
    lse[r] = there ? p.lse[place] : -INF;
    lse[r] = lse[r] == -INF ? INF : lse[r] * LOG2E;
    delta[r] = there ? p.delta[place] : 0;
  }

  shared.ring_owned().await_full();
  if (walk.begin < walk.end) ring.await_full();
  for (int j = walk.begin; j < walk.end; ++j) {
    const u32 k = ring.tile(), v = k + WALKED_TILE;
    const bool edge = j * WALKED < whole.first || (j + 1) * WALKED > whole.last;
    Ring<STAGES> next = ring;
    next.next();
    issue_abt<WALKED>(s, q, k);
    issue_abt<WALKED>(dp, d_out, v);
    wgmma_wait<1>(s);
    if (edge) mask(s, j * WALKED + 2 * (lane % 4), seen);
#pragma unroll
    for (int i = 0; i < WALKED / 2; ++i)
      s[i] = exp2_fast(s[i] * p.scale_log2 - lse[i / 2 % 2]);
    if (j + 1 < walk.end) next.await_full();  // here, so that ptxas leaves P before the next wait
    wgmma_wait<0>(dp);
#pragma unroll
    for (int i = 0; i < WALKED / 2; ++i) dp[i] = s[i] * (dp[i] - delta[i / 2 % 2]);
    to_operand(ds_operand, dp);
    issue_pb<WALKED>(dq, ds_operand, k);
    wgmma_wait<0>(dq, ds_operand);
    ring.release();
  }
  store_rows(p.dq.matrix(blockIdx.z, blockIdx.y), p.dq.row, row, p.shape.queries, dq,
             {p.scale, p.scale});
}

#define KERNEL hopper_backward_dq
#define FILLERS 1
#endif

// ---------------------------------------------------------------------------------------- kernel

extern "C" __global__ void __launch_bounds__(THREADS, 1)
KERNEL(const __grid_constant__ HopperBackwardParams p) {
  SHARED(memory);
  const Shared shared(aligned(shared_address(memory)));
  float* rows = (float*)(memory + (shared.rows - shared.owned));
  if (threadIdx.x == 0) {
    shared.ring_owned().initialise(1, 1);
    shared.ring().initialise(FILLERS, 4 * CONSUMERS);
    barrier_init_fence();
  }
  __syncthreads();
  specialise([&] { produce(p, shared, rows); },
             [&](int consumer) { consume(p, shared, rows, consumer); });
}
