// Tiles of D columns in shared memory, copied there in the background, and their products.
#pragma once
#include "fragments.cuh"

#define ROW_BYTES (2 * D)

// Where the 16 bytes `c` of row `row` are. `ldmatrix` reads the same c of 8 rows at once. A row is
// as long as the 32 banks (or twice), so in plain order the 8 pieces would lie in the same 4 banks
// and be read one by one. Swizzle: row r keeps piece c at c ^ (r % 8), and the 8 pieces lie in 8
// different groups of banks.
DEV u32 piece(u32 tile, int row, int c) { return tile + row * ROW_BYTES + ((c ^ (row % 8)) << 4); }

// Start to copy ROWS rows from row `first` on; zeros for those not below `end`.
template <int ROWS>
DEV void load_tile(u32 tile, const Element* from, i64 stride, int first, int end) {
  constexpr int STEP = THREADS / (D / 8);  // rows that the block copies at once: a multiple of 8
  const int row = threadIdx.x / (D / 8), c = threadIdx.x % (D / 8);
  const u32 to = piece(tile, row, c);
  from += (first + row) * stride + 8 * c;
#pragma unroll
  for (int i = 0; i < ROWS; i += STEP)
    cp_async<16>(to + i * ROW_BYTES, from + i * stride, first + row + i < end);
}

// In both products a thread's addresses are written as its first one, XORed for other columns and
// advanced for other rows: a swizzle within rows of a tile that starts at a multiple of 8 rows.

// acc (16 M x 8 N) += A B^T: A is rows `row` to `row` + 16 M of the tile a, B rows 0 to 8 N of b.
template <int M, int N>
DEV void multiply_abt(float (&acc)[M][N][4], u32 a, int row, u32 b) {
  const u32 first_a = piece(a, row + lane() % 16, lane() / 16);
  const u32 first_b = piece(b, lane() % 8 + lane() / 16 * 8, lane() / 8 % 2);
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    u32 left[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) ldmatrix(left[m], (first_a ^ 32 * k) + 16 * m * ROW_BYTES);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      u32 right[4];  // 16 rows of b are 16 columns of B^T: two tiles of mma
      ldmatrix(right, (first_b ^ 32 * k) + 8 * n * ROW_BYTES);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma(acc[m][n], left[m], right[0], right[1]);
        mma(acc[m][n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

// acc (16 M x D) += P B: P (16 M x 8 N) is in registers, B rows 0 to 8 N of the tile b. Columns of
// B are wanted where rows of B^T were: `ldmatrix` transposes on the way.
template <int M, int N>
DEV void multiply_pb(float (&acc)[M][D / 8][4], const float (&p)[M][N][4], u32 b) {
  const u32 first = piece(b, lane() % 16, lane() / 16);
#pragma unroll
  for (int k = 0; k < N / 2; ++k) {
    u32 left[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) as_operand(left[m], p[m], k);
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      u32 right[4];
      ldmatrix_transposed(right, (first ^ 16 * n) + 16 * k * ROW_BYTES);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma(acc[m][n], left[m], right[0], right[1]);
        mma(acc[m][n + 1], left[m], right[2], right[3]);
      }
    }
  }
}
