// v2: FlashAttention-2 (Dao 2023) on the tensor cores of sm_80 and later. Three things are new over
// v1b. Tiles are swizzled, and `ldmatrix` reads them without bank conflicts. Copies run in the
// background: V_j arrives while S_j is computed, K_{j+1} during the softmax and P_j V_j. And a warp
// has 32 queries, so that what it reads of K and V serves two products instead of one.
#include "tiles.cuh"

#define M (BM / (16 * WARPS))
#define N (BN / 8)
#define TILE_BYTES (BN * ROW_BYTES)

extern "C" __global__ void __launch_bounds__(THREADS)
flash_forward(const __grid_constant__ ForwardParams p) {
  SHARED(memory);
  const u32 tile_q = shared_address(memory), tiles_k = tile_q + BM * ROW_BYTES;
  const u32 tile_v = tiles_k + 2 * TILE_BYTES;

  // The last queries first: with a causal mask they have the most keys.
  const int first_row = (gridDim.x - 1 - blockIdx.x) * BM, row = first_row + warp() * 16 * M;
  const int last_row = min(first_row + BM, p.shape.queries) - 1;
  const int head = blockIdx.y, b = blockIdx.z, group = p.shape.group_of(head);
  const Element *k = p.k.matrix(b, group), *v = p.v.matrix(b, group);

  // Tiles in which some query of the block sees a key, and keys that all queries of the warp see.
  const int begin = keys_seen_by(first_row, p.shape).first / BN;
  const int end = (keys_seen_by(last_row, p.shape).last + BN - 1) / BN;
  const Span whole = {keys_seen_by(row + 16 * M - 1, p.shape).first,
                      keys_seen_by(row, p.shape).last};
  const auto seen = [&](int r) { return keys_seen_by(row + r, p.shape); };

  Softmax<M> softmax;
  load_tile<BM>(tile_q, p.q.matrix(b, head), p.q.row, first_row, p.shape.queries);
  load_tile<BN>(tiles_k, k, p.k.row, begin * BN, p.shape.keys);
  cp_async_commit();
  for (int j = begin; j < end; ++j) {
    const u32 tile_k = tiles_k + (j - begin) % 2 * TILE_BYTES;
    const u32 next_k = tiles_k + (j - begin + 1) % 2 * TILE_BYTES;
    cp_async_wait<0>();  // K_j is here,
    __syncthreads();     // all of it, and nobody reads V_{j-1} or K_{j-1} any more
    load_tile<BN>(tile_v, v, p.v.row, j * BN, p.shape.keys);
    cp_async_commit();

    float s[M][N][4] = {};
    multiply_abt(s, tile_q, warp() * 16 * M, tile_k);
    if (j + 1 < end) load_tile<BN>(next_k, k, p.k.row, (j + 1) * BN, p.shape.keys);
    cp_async_commit();

#if SOFTCAP
#pragma unroll
    for (int i = 0; i < M * N * 4; ++i) {
      float& x = s[i / (4 * N)][i / 4 % N][i % 4];
      x = tanh_fast(p.inner * x);
    }
#endif
    if (j * BN < whole.first || (j + 1) * BN > whole.last) mask(s, j * BN, -INF, seen);
    softmax.update(s, p.scale_log2);

    cp_async_wait<1>();  // V_j is here; K_{j+1} may be on its way
    __syncthreads();
    multiply_pb(softmax.o, s, tile_v);
  }
  cp_async_wait<0>();
  finish(softmax, p, b, head, row);
}
