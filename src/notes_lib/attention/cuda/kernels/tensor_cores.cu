// v1b: the same attention on tensor cores, and nothing else improved. A block owns 64 queries, each
// warp 16 of them. What is new: `mma` multiplies tiles of 16 x 16 and 16 x 8 whose elements a warp
// holds in a fixed pattern, and every operand is gathered into that pattern word by word.
// What is wrong, on purpose: a row of a tile is as long as the 32 banks of shared memory, so that
// the 8 rows that a warp gathers from lie in the same banks; and no copy overlaps any product.
#include "fragments.cuh"

#define BM (16 * WARPS)
#define N (BN / 8)

// Rows `first` to `first` + BN; zeros for those not below `end`.
DEV void copy_tile(Element* tile, const Element* from, i64 stride, int first, int end) {
  for (int i = 8 * threadIdx.x; i < BN * D; i += 8 * THREADS) {
    const int row = first + i / D;
    const Words zeros = {};
    store_shared((Words*)(tile + i), row < end ? *(Words*)(from + row * stride + i % D) : zeros);
  }
}

// Two neighbouring elements of a row, and two neighbours in a column.
DEV u32 across(const Element* tile, int row, int column) {
  return load_shared((const u32*)(tile + row * D + column));
}
DEV u32 down(const Element* tile, int row, int column) {
  return load_shared(tile + row * D + column) |
         (u32)load_shared(tile + (row + 1) * D + column) << 16;
}

extern "C" __global__ void __launch_bounds__(THREADS)
tensor_cores(const __grid_constant__ ForwardParams p) {
  SHARED(memory);
  Element *tile_k = (Element*)memory, *tile_v = tile_k + BN * D;
  const int g = lane() / 4, c = 2 * (lane() % 4);  // of a tile: see `mma`
  const int first_row = blockIdx.x * BM, row = first_row + 16 * warp();
  const int last_row = min(first_row + BM, p.shape.queries) - 1;
  const int head = blockIdx.y, b = blockIdx.z, group = p.shape.group_of(head);

  u32 q[D / 16][4];  // left operands, straight from global memory
#pragma unroll
  for (int i = 0; i < D / 4; ++i) {
    const int query = row + g + i % 2 * 8, column = i / 4 * 16 + i / 2 % 2 * 8 + c;
    const Element* from = p.q.matrix(b, head) + query * p.q.row + column;
    q[i / 4][i % 4] = query < p.shape.queries ? *(const u32*)from : 0;
  }

  Softmax<1> softmax;
  const int end = keys_seen_by(last_row, p.shape).last;
  for (int j = 0; j < end; j += BN) {
    __syncthreads();  // nobody reads the last tiles any more
    copy_tile(tile_k, p.k.matrix(b, group), p.k.row, j, p.shape.keys);
    copy_tile(tile_v, p.v.matrix(b, group), p.v.row, j, p.shape.keys);
    __syncthreads();  // both tiles are here

    float s[1][N][4] = {};  // S = Q K^T: the columns of K^T are rows of K
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
#pragma unroll
      for (int n = 0; n < N; ++n)
        mma(s[0][n], q[k], across(tile_k, 8 * n + g, 16 * k + c),
            across(tile_k, 8 * n + g, 16 * k + c + 8));

    mask(s, j, -INF, [&](int r) { return keys_seen_by(row + r, p.shape); });
    softmax.update(s, p.scale_log2);

#pragma unroll
    for (int k = 0; k < N / 2; ++k) {  // O += P V
      u32 left[4];
      as_operand(left, s[0], k);
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
        mma(softmax.o[0][n], left, down(tile_v, 16 * k + c, 8 * n + g),
            down(tile_v, 16 * k + c + 8, 8 * n + g));
    }
  }
  finish(softmax, p, b, head, row);
}
