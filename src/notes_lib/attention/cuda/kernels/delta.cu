// What the backward pass has to know of a whole row before it begins: delta = rowsum(dO O) - dL.
// Two operations for four bytes read: this waits for memory, however it computes. So each tensor is
// read once, 16 bytes a thread, and its numbers are widened in registers, where operations on whole
// tensors would write both out in float and read them again.
#include "attention.cuh"

#define THREADS 256
#define SHARE (D / 8)  // threads of a row: a part of a warp
#define ROWS (THREADS / SHARE)

// The sum of the products of the halves.
DEV float dot(u32 a, u32 b) { return widen(a) * widen(b) + widen(a >> 16) * widen(b >> 16); }

extern "C" __global__ void __launch_bounds__(THREADS)
row_delta(const __grid_constant__ DeltaParams p) {
  const int query = blockIdx.x * ROWS + threadIdx.x / SHARE, column = threadIdx.x % SHARE * 8;
  const int head = blockIdx.y, b = blockIdx.z;
  const bool there = query < p.queries;  // the others come along: a warp sums up together

  Words d_out = {}, out = {};
  if (there) {
    d_out = *(const Words*)(p.d_out.matrix(b, head) + query * p.d_out.row + column);
    out = *(const Words*)(p.out.matrix(b, head) + query * p.out.row + column);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) sum += dot(d_out.word[i], out.word[i]);
#pragma unroll
  for (int apart = SHARE / 2; apart > 0; apart /= 2) sum += shuffle_xor(sum, apart);

  if (there && column == 0) {
    const i64 row = ((i64)b * gridDim.y + head) * p.queries + query;
    p.delta[row] = sum - (p.d_lse ? p.d_lse[row] : 0);
  }
}
