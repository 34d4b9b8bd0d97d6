// v1: attention without its matrix, in float and without tensor cores. A block owns 32 queries and
// walks the keys in tiles of BN; four threads share a query, each with a fourth of its D columns.
// What it shows is the online softmax: m, l and o of a query are corrected as keys arrive. What it
// costs: every product of two numbers reads one of them from shared memory.
#include "attention.cuh"

#define SHARE 4
#define THREADS 128
#define BM (THREADS / SHARE)
#define COLUMNS (D / SHARE)

// Rows `first` to `first` + BN; zeros for those not below `end`.
DEV void copy_tile(float* tile, const float* from, i64 stride, int first, int end) {
  for (int i = threadIdx.x; i < BN * D; i += THREADS) {
    const int row = first + i / D;
    store_shared(tile + i, row < end ? from[row * stride + i % D] : 0.f);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
naive(const __grid_constant__ ForwardParams p) {
  SHARED(memory);
  float *tile_k = (float*)memory, *tile_v = tile_k + BN * D;
  const int part = threadIdx.x % SHARE, query = blockIdx.x * BM + threadIdx.x / SHARE;
  const int head = blockIdx.y, b = blockIdx.z, group = p.shape.group_of(head);
  const float *k = tile_k + part, *v = tile_v + part;  // neighbours read neighbours: no conflicts
  const bool inside = query < p.shape.queries;
  const Span seen = keys_seen_by(query, p.shape);

  float q[COLUMNS], o[COLUMNS], m = -INF, l = 0;
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    q[c] = inside ? p.q.matrix(b, head)[query * p.q.row + SHARE * c + part] : 0;
    o[c] = 0;
  }

  const int last_row = min(int(blockIdx.x + 1) * BM, p.shape.queries) - 1;
  const int end = keys_seen_by(last_row, p.shape).last;
  for (int j = 0; j < end; j += BN) {
    __syncthreads();  // nobody reads the last tiles any more
    copy_tile(tile_k, p.k.matrix(b, group), p.k.row, j, p.shape.keys);
    copy_tile(tile_v, p.v.matrix(b, group), p.v.row, j, p.shape.keys);
    __syncthreads();  // both tiles are here

    float s[BN], top = m;
#pragma unroll
    for (int i = 0; i < BN; ++i) {
      float sum = 0;
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) sum += q[c] * load_shared(k + i * D + SHARE * c);
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      s[i] = seen.holds(j + i) ? sum : -INF;
      top = max(top, s[i]);
    }

    const float shift = top == -INF ? 0 : top * p.scale_log2;  // the query may have seen no key yet
    const float alpha = exp2_fast(m * p.scale_log2 - shift);
    m = top;
    l *= alpha;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) o[c] *= alpha;
#pragma unroll
    for (int i = 0; i < BN; ++i) {
      const float weight = exp2_fast(s[i] * p.scale_log2 - shift);
      l += weight;
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) o[c] += weight * load_shared(v + i * D + SHARE * c);
    }
  }

  if (!inside) return;
  float* out = p.out.matrix(b, head) + query * p.out.row;
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) out[SHARE * c + part] = l == 0 ? 0 : o[c] / l;
  if (part == 0)
    p.lse[p.shape.row_of(b, head, query)] =
        l == 0 ? -INF : (m * p.scale_log2 + log2_fast(l)) * LN2;
}
