// What a warp holds of a matrix in registers, and the online softmax on it.
//
// acc[M][N][4] is a matrix of 16 M rows and 8 N columns as `mma` leaves it: of each tile of 16 by 8
// a thread has four elements, in rows lane / 4 and 8 below, in two neighbouring columns. So a row
// belongs to four neighbouring threads, and a thread has a part of 2 M rows.
#pragma once
#include "attention.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)

DEV int warp() { return threadIdx.x / 32; }
DEV int lane() { return threadIdx.x % 32; }

// Where acc[m][n][e] is in the matrix.
DEV int row_of(int m, int e) { return 16 * m + lane() / 4 + 8 * (e / 2); }
DEV int column_of(int n, int e) { return 8 * n + 2 * (lane() % 4) + e % 2; }

// Over the four threads of a row.
DEV float row_max(float x) {
  x = max(x, shuffle_xor(x, 1));
  return max(x, shuffle_xor(x, 2));
}
DEV float row_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

// p as the left operand of `mma`, columns 16 k to 16 k + 15: what it leaves in a thread of two
// neighbouring tiles is what it wants of them, rounded to 16 bits.
template <int N> DEV void as_operand(u32 (&a)[4], const float (&p)[N][4], int k) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* tile = p[2 * k + i / 2];
    a[i] = pack(tile[2 * (i % 2)], tile[2 * (i % 2) + 1]);
  }
}

// The softmax of each row so far: greatest score m, sum l of exp(score - m) and sum o of
// exp(score - m) v. A thread's l is that of its own columns, until the end.
template <int M> struct Softmax {
  float m[M][2], l[M][2], o[M][D / 8][4];

  DEV Softmax() {
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        m[i][r] = -INF;
        l[i][r] = 0;
      }
#pragma unroll
    for (int i = 0; i < M * D / 2; ++i) o[i / (D / 2)][i / 4 % (D / 8)][i % 4] = 0;
  }

  // S becomes P = exp(S - m) for the new m; what was summed so far is scaled down to it.
  template <int N> DEV void update(float (&s)[M][N][4], float scale_log2) {
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float top = m[i][r];
#pragma unroll
        for (int n = 0; n < N; ++n) top = max(top, max(s[i][n][2 * r], s[i][n][2 * r + 1]));
        top = row_max(top);
        const float shift = top == -INF ? 0 : top * scale_log2;  // the row may have seen no key yet
        const float alpha = exp2_fast(m[i][r] * scale_log2 - shift);
        m[i][r] = top;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          o[i][n][2 * r] *= alpha;
          o[i][n][2 * r + 1] *= alpha;
        }
        float sum = 0;
#pragma unroll
        for (int n = 0; n < N; ++n) {
          s[i][n][2 * r] = exp2_fast(s[i][n][2 * r] * scale_log2 - shift);
          s[i][n][2 * r + 1] = exp2_fast(s[i][n][2 * r + 1] * scale_log2 - shift);
          sum += s[i][n][2 * r] + s[i][n][2 * r + 1];
        }
        l[i][r] = l[i][r] * alpha + sum;
      }
  }
};

// `hidden` for the elements of each row outside of its span, `seen(row)`; `column` is that of the
// matrix's first one. Done apart from the arithmetic and only where it is needed: one branch, where
// a condition at each element would be as many.
template <int M, int N, class Seen>
DEV void mask(float (&acc)[M][N][4], int column, float hidden, Seen seen) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Span span = seen(row_of(m, 2 * r));
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e)
          if (!span.holds(column + column_of(n, e))) acc[m][n][e] = hidden;
    }
}

// Write row r of acc to row `first` + r, for those below `end`; `by(m, e)` multiplies its elements.
template <int M, class By>
DEV void store_rows(Element* to, i64 stride, int first, int end, const float (&acc)[M][D / 8][4],
                    By by) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const int row = first + row_of(m, e);
      if (row < end)
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
          *(u32*)(to + row * stride + column_of(n, 0)) =
              pack(acc[m][n][e] * by(m, e), acc[m][n][e + 1] * by(m, e));
    }
}

// out = o / l and lse = m + log l. A query that saw no key has out 0 and lse -inf.
template <int M>
DEV void finish(const Softmax<M>& softmax, const ForwardParams& p, int b, int head, int row) {
  float inverse[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float l = row_sum(softmax.l[m][r]);
      const int query = row + row_of(m, 2 * r);
      inverse[m][r] = l == 0 ? 0 : 1 / l;
      if (query < p.shape.queries && lane() % 4 == 0)
        p.lse[p.shape.row_of(b, head, query)] =
            l == 0 ? -INF : (softmax.m[m][r] * p.scale_log2 + log2_fast(l)) * LN2;
    }
  store_rows(p.out.matrix(b, head), p.out.row, row, p.shape.queries, softmax.o,
             [&](int m, int e) { return inverse[m][e / 2]; });
}
