// The machine in a few names: thin wrappers around PTX instructions of sm_80 and later. Under
// EMULATE the same names are computed on the CPU (emulator/ampere.h).
#pragma once
#ifdef EMULATE
#include "ampere.h"
#else
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
#define DEV __device__ __forceinline__
#define INF __int_as_float(0x7f800000)
#define SHARED(name) extern __shared__ __align__(1024) char name[]  // sized by the launch

// ---- arithmetic: hardware approximations, relative error about 2^-22

DEV float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEV float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEV float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two floats rounded to 16 bits, `low` in the low half.
DEV u32 pack(float low, float high) {
  u32 both;
#if HALF
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#else
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#endif
  return both;
}

// The number whose bits are the lowest 16.
DEV float widen(u32 bits) {
#if HALF
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((u16)bits));
  return x;
#else
  return __uint_as_float(bits << 16);
#endif
}

DEV float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

// ---- shared memory

DEV u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Plain accesses, named so that the emulator can count their bank conflicts.
template <class T> DEV T load_shared(const T* p) { return *p; }
template <class T> DEV void store_shared(T* p, T x) { *p = x; }

// Four 8x8 matrices of 16-bit elements. Thread t names row t % 8 of matrix t / 8, and receives of
// each matrix the two elements that `mma` wants of it.
DEV void ldmatrix(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address) : "memory");
}
DEV void ldmatrix_transposed(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address) : "memory");
}

// Copy 16 or 4 bytes to shared memory in the background, or write zeros where `there` is false.
template <int BYTES> DEV void cp_async(u32 to, const void* from, bool there) {
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :: "r"(to), "l"(from), "r"(there ? 4 : 0) : "memory");
}
DEV void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait until at most LEFT of this thread's groups are under way.
template <int LEFT> DEV void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
}

// ---- tensor cores

#if HALF
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#else
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#endif

// acc (16 x 8, float) += a (16 x 16) b (16 x 8). With g = lane / 4, c = 2 (lane % 4) a thread holds
//   acc[i]   row g + 8 (i / 2),  column c + i % 2
//   a[i]     row g + 8 (i % 2),  columns c + 8 (i / 2) and the next
//   b0, b1   rows c and the next, c + 8 and the next, column g
DEV void mma(float (&acc)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm(MMA "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// ---- in both worlds

#define LOG2E 1.4426950408889634f  // exp(x) = exp2(x log2 e): the hardware has exp2 only
#define LN2 0.6931471805599453f

// 1 - 2 / (1 + exp(2 x)). The instruction tanh.approx costs half as much, but its error, 2^-11, is
// 0.02 in a score that is capped at 50.
DEV float tanh_fast(float x) { return 1 - 2 * reciprocal_fast(1 + exp2_fast(2 * LOG2E * x)); }

struct alignas(16) Words {  // what one thread moves at once
  u32 word[4];
};
