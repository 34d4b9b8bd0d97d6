// v2, backward: P is computed again from Q, K and lse, tile by tile, and from it
//   dV = P^T dO,   dS = P (dO V^T - delta),   dK = scale dS^T Q,   dQ = scale dS K.
// Sums over queries (dK, dV) and sums over keys (dQ) want opposite loops: so two kernels, each of
// which owns its sums in registers. That costs seven products where one kernel that adds to dQ in
// global memory needs five; in return every sum has one order, and two runs agree to the last bit.
#include "tiles.cuh"

#define M (BM / (16 * WARPS))
#define N (BN / 8)
#define OWNED_BYTES (BM * ROW_BYTES)
#define TILE_BYTES (BN * ROW_BYTES)

// In: a score before its scale, dP, and lse in powers of two. Out: P and dS if the key is seen; if
// not, anything, even NaN, and zero has to take its place.
DEV void differentiate(float& s, float& dp, float lse, float delta, const BackwardParams& p) {
  float slope = 1;
#if SOFTCAP
  s = tanh_fast(p.inner * s);
  slope = 1 - s * s;
#endif
  s = exp2_fast(s * p.scale_log2 - lse);
  dp = s * (dp - delta) * slope;
}

#if DKDV
// dK and dV of BM keys. The block walks the queries that see them, of all heads that share them.
// Scores are transposed, S^T = K Q^T: then P^T and dS^T are where the next products want them.
extern "C" __global__ void __launch_bounds__(THREADS)
flash_backward_dkdv(const __grid_constant__ BackwardParams p) {
  SHARED(memory);
  const u32 tile_k = shared_address(memory), tile_v = tile_k + OWNED_BYTES;
  const u32 tiles_q = tile_v + OWNED_BYTES, tiles_do = tiles_q + 2 * TILE_BYTES;
  float* rows = (float*)(memory + 2 * OWNED_BYTES + 4 * TILE_BYTES);  // lse and delta, twice

  const int first_key = blockIdx.x * BM, key = first_key + warp() * 16 * M;
  const int last_key = min(first_key + BM, p.shape.keys) - 1;
  const int group = blockIdx.y, b = blockIdx.z, heads = p.shape.heads / p.shape.groups;

  // Tiles of queries of which some sees a key of the block; queries that see all keys of the warp.
  const int begin = queries_that_see(first_key, p.shape).first / BN;
  const int end = (queries_that_see(last_key, p.shape).last + BN - 1) / BN;
  const int steps = max(0, end - begin);
  const Span whole = {queries_that_see(key + 16 * M - 1, p.shape).first,
                      queries_that_see(key, p.shape).last};
  const auto seeing = [&](int r) { return queries_that_see(key + r, p.shape); };

  auto load_step = [&](int t) {
    const int head = group * heads + t / steps, first = (begin + t % steps) * BN;
    const u32 stage = t % 2 * TILE_BYTES;
    load_tile<BN>(tiles_q + stage, p.q.matrix(b, head), p.q.row, first, p.shape.queries);
    load_tile<BN>(tiles_do + stage, p.d_out.matrix(b, head), p.d_out.row, first, p.shape.queries);
    if (threadIdx.x < BN) {
      const i64 row = p.shape.row_of(b, head, first + threadIdx.x);
      const bool there = first + threadIdx.x < p.shape.queries;
      const u32 to = shared_address(rows + t % 2 * 2 * BN + threadIdx.x);
      cp_async<4>(to, p.lse + row, there);
      cp_async<4>(to + 4 * BN, p.delta + row, there);
    }
  };

  float dk[M][D / 8][4] = {}, dv[M][D / 8][4] = {};
  load_tile<BM>(tile_k, p.k.matrix(b, group), p.k.row, first_key, p.shape.keys);
  load_tile<BM>(tile_v, p.v.matrix(b, group), p.v.row, first_key, p.shape.keys);
  if (steps > 0) load_step(0);
  cp_async_commit();
  for (int t = 0; t < heads * steps; ++t) {
    const u32 tile_q = tiles_q + t % 2 * TILE_BYTES, tile_do = tiles_do + t % 2 * TILE_BYTES;
    const float *lse = rows + t % 2 * 2 * BN, *delta = lse + BN;
    const int first = (begin + t % steps) * BN;
    cp_async_wait<0>();  // this step's tiles are here,
    __syncthreads();     // all of them, and nobody reads those of the last step any more
    if (t + 1 < heads * steps) load_step(t + 1);
    cp_async_commit();

    float s[M][N][4] = {}, dp[M][N][4] = {};
    multiply_abt(s, tile_k, warp() * 16 * M, tile_q);
    multiply_abt(dp, tile_v, warp() * 16 * M, tile_do);
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float its_lse = load_shared(lse + column_of(n, e)) * LOG2E;
        const float its_delta = load_shared(delta + column_of(n, e));
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
          for (int i = e; i < 4; i += 2)
            differentiate(s[m][n][i], dp[m][n][i], its_lse, its_delta, p);
      }
    if (first < whole.first || first + BN > whole.last) {
      mask(s, first, 0, seeing);
      mask(dp, first, 0, seeing);
    }
    multiply_pb(dv, s, tile_do);
    multiply_pb(dk, dp, tile_q);
  }
  cp_async_wait<0>();
  const auto by_one = [](int, int) { return 1.f; };
  const auto by_scale = [&](int, int) { return p.scale; };
  store_rows(p.dv.matrix(b, group), p.dv.row, key, p.shape.keys, dv, by_one);
  store_rows(p.dk.matrix(b, group), p.dk.row, key, p.shape.keys, dk, by_scale);
}

#else
// dQ of BM queries: the block walks the keys that they see.
extern "C" __global__ void __launch_bounds__(THREADS)
flash_backward_dq(const __grid_constant__ BackwardParams p) {
  SHARED(memory);
  const u32 tile_q = shared_address(memory), tile_do = tile_q + OWNED_BYTES;
  const u32 tiles_k = tile_do + OWNED_BYTES, tiles_v = tiles_k + 2 * TILE_BYTES;

  // The last queries first: with a causal mask they have the most keys.
  const int first_row = (gridDim.x - 1 - blockIdx.x) * BM, row = first_row + warp() * 16 * M;
  const int last_row = min(first_row + BM, p.shape.queries) - 1;
  const int head = blockIdx.y, b = blockIdx.z, group = p.shape.group_of(head);

  const int begin = keys_seen_by(first_row, p.shape).first / BN;
  const int end = (keys_seen_by(last_row, p.shape).last + BN - 1) / BN;
  const Span whole = {keys_seen_by(row + 16 * M - 1, p.shape).first,
                      keys_seen_by(row, p.shape).last};
  const auto seen = [&](int r) { return keys_seen_by(row + r, p.shape); };

  auto load_step = [&](int j) {
    const u32 stage = (j - begin) % 2 * TILE_BYTES;
    load_tile<BN>(tiles_k + stage, p.k.matrix(b, group), p.k.row, j * BN, p.shape.keys);
    load_tile<BN>(tiles_v + stage, p.v.matrix(b, group), p.v.row, j * BN, p.shape.keys);
  };

  float dq[M][D / 8][4] = {}, lse[M][2], delta[M][2];
  load_tile<BM>(tile_q, p.q.matrix(b, head), p.q.row, first_row, p.shape.queries);
  load_tile<BM>(tile_do, p.d_out.matrix(b, head), p.d_out.row, first_row, p.shape.queries);
  if (begin < end) load_step(begin);
  cp_async_commit();
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int query = row + row_of(m, 2 * r);
      const bool there = query < p.shape.queries;
      lse[m][r] = there ? p.lse[p.shape.row_of(b, head, query)] * LOG2E : 0;
      delta[m][r] = there ? p.delta[p.shape.row_of(b, head, query)] : 0;
    }
  for (int j = begin; j < end; ++j) {
    const u32 stage = (j - begin) % 2 * TILE_BYTES;
    cp_async_wait<0>();
    __syncthreads();
    if (j + 1 < end) load_step(j + 1);
    cp_async_commit();

    float s[M][N][4] = {}, dp[M][N][4] = {};
    multiply_abt(s, tile_q, warp() * 16 * M, tiles_k + stage);
    multiply_abt(dp, tile_do, warp() * 16 * M, tiles_v + stage);
#pragma unroll
    for (int i = 0; i < M * N * 4; ++i) {
      const int m = i / (4 * N), n = i / 4 % N, e = i % 4;
      differentiate(s[m][n][e], dp[m][n][e], lse[m][e / 2], delta[m][e / 2], p);
    }
    if (j * BN < whole.first || (j + 1) * BN > whole.last) mask(dp, j * BN, 0, seen);
    multiply_pb(dq, dp, tiles_k + stage);
  }
  cp_async_wait<0>();
  store_rows(p.dq.matrix(b, head), p.dq.row, row, p.shape.queries, dq,
             [&](int, int) { return p.scale; });
}
#endif
