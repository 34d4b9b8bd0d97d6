// What every kernel is told: the tensors and the keys that a query sees. params.py mirrors it.
#pragma once
#include "prims.cuh"

#if FLOAT
typedef float Element;
#else
typedef u16 Element;  // the bits of a bfloat16, or of a half with HALF
#endif

// A tensor "b h n d". Strides in elements; those of the last axis are next to each other.
struct Tensor {
  Element* data;
  i64 batch, head, row;

  DEV Element* matrix(int b, int h) const { return data + b * batch + h * head; }
};

// Of one batch: `heads` heads of queries, of which each `heads / groups` share one of keys.
struct Shape {
  int heads, groups, queries, keys;
  int window;  // greatest distance of a key that is seen, on either side

  DEV int group_of(int head) const { return head / (heads / groups); }
  DEV i64 row_of(int b, int head, int query) const {  // in a tensor "b h n"
    return ((i64)b * heads + head) * queries + query;
  }
};

// Scores are taken before their scale: it enters the exponent, exp(scale s) = exp2(scale_log2 s).
// With SOFTCAP c they are t = tanh(inner s), inner = scale / c, and scale_log2 = c log2(e).
struct ForwardParams {
  Tensor q, k, v, out;
  float* lse;  // "b h n": log of the sum of exponentials, -inf for a query that sees no key
  Shape shape;
  float scale_log2, inner;
};

struct BackwardParams {
  Tensor q, k, v, d_out, dq, dk, dv;
  const float* lse;
  const float* delta;  // "b h n": rowsum(d_out out), less the gradient of lse
  Shape shape;
  float scale, scale_log2, inner;
};

struct DeltaParams {
  Tensor d_out, out;
  const float* d_lse;  // "b h n", or null where nobody uses lse
  float* delta;        // "b h n"
  int queries;
};

// Places first, ..., last - 1.
struct Span {
  int first, last;

  DEV bool holds(int place) const { return place >= first && place < last; }
};

// Query i stands beside key i + keys - queries: all masks are aligned at the bottom right.
DEV Span keys_seen_by(int query, const Shape& s) {
  const int beside = query + s.keys - s.queries;
  return {max(0, beside - s.window), min(s.keys, beside + (CAUSAL ? 0 : s.window) + 1)};
}
DEV Span queries_that_see(int key, const Shape& s) {
  const int beside = key - s.keys + s.queries;
  return {max(0, beside - (CAUSAL ? 0 : s.window)), min(s.queries, beside + s.window + 1)};
}
