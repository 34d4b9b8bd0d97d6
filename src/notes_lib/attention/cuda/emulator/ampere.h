// The instructions of prims.cuh on the CPU: the same names, computed from their definitions in the
// PTX manual. What each thread of a warp holds of an 8x8 matrix or of a tile of `mma` is the point.
#pragma once
#include "block.h"

#define DEV inline
#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define SHARED(name) char* name = emu::block->shared
#define INF INFINITY

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float max(float a, float b) { return fmaxf(a, b); }  // of a number and NaN, the number

namespace emu {

inline float float_of(u32 bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline u32 bits_of(float x) {
  u32 bits;
  memcpy(&bits, &x, 4);
  return bits;
}

inline float from_bfloat16(u16 x) { return float_of(u32(x) << 16); }
inline u16 to_bfloat16(float x) {
  const u32 bits = bits_of(x);
  if (std::isnan(x)) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline float from_half(u16 x) {
  const u32 sign = u32(x & 0x8000) << 16, rest = u32(x & 0x7fff) << 13;
  if ((x & 0x7c00) == 0x7c00) return float_of(sign | 0x7f800000 | rest);
  return float_of(sign | bits_of(float_of(rest) * 0x1p112f));
}
inline u16 to_half(float x) {
  const u32 bits = bits_of(x), sign = bits >> 16 & 0x8000;
  const float size = std::fabs(x);
  if (std::isnan(x)) return 0x7fff;
  if (size >= 65520.f) return sign | 0x7c00;
  if (size < 0x1p-14f) return sign | u32(std::nearbyint(size * 0x1p24f));
  const u32 rest = bits & 0x7fffffff;
  return sign | (((rest + 0xfff + (rest >> 13 & 1)) >> 13) - (112 << 10));
}

#if HALF
inline float from_element(u16 x) { return from_half(x); }
inline u16 to_element(float x) { return to_half(x); }
#else
inline float from_element(u16 x) { return from_bfloat16(x); }
inline u16 to_element(float x) { return to_bfloat16(x); }
#endif

}  // namespace emu

// ---- arithmetic

inline float exp2_fast(float x) { return exp2f(x); }
inline float log2_fast(float x) { return log2f(x); }
inline float reciprocal_fast(float x) { return 1 / x; }
inline u32 pack(float low, float high) {
  return emu::to_element(low) | u32(emu::to_element(high)) << 16;
}
inline float widen(u32 bits) { return emu::from_element(u16(bits)); }

// ---- the block

inline void __trap() { emu::fail("the kernel stops itself"); }

inline void __syncthreads() {
  using namespace emu;
  together(block->all, threadIdx.x, block->threads, "__syncthreads", nullptr,
           [](void**) { counted.barriers++; });
}

inline void __syncwarp() {
  emu::warp_together("__syncwarp", nullptr, [](void**) {});
}

inline float shuffle_xor(float x, int mask) {
  struct Given {
    float x, result;
    int mask;
  } mine{x, 0, mask};
  emu::warp_together("shuffle_xor", &mine, [](void** all) {
    for (int lane = 0; lane < 32; ++lane) {
      Given* g = (Given*)all[lane];
      g->result = ((Given*)all[lane ^ g->mask])->x;
    }
  });
  return mine.result;
}

// ---- shared memory

inline u32 shared_address(const void* p) {
  return emu::SHARED_BASE + u32((const char*)p - emu::block->shared);
}

template <class T>
T load_shared(const T* p) {
  const u32 address = shared_address(p);
  if (emu::lane_index() == 0) emu::counted.shared_loads++;
  emu::count_access(address, sizeof(T));
  T x;
  memcpy(&x, emu::shared_at(address, sizeof(T)), sizeof(T));
  return x;
}
template <class T>
void store_shared(T* p, T x) {
  const u32 address = shared_address(p);
  if (emu::lane_index() == 0) emu::counted.shared_stores++;
  emu::count_access(address, sizeof(T));
  memcpy(emu::shared_at(address, sizeof(T)), &x, sizeof(T));
}

// Matrix i of four has its 8 rows, of 16 bytes, at the addresses of threads 8 i to 8 i + 7. Of each
// matrix thread t gets element (t / 4, 2 (t % 4)) and the one beside it; transposed, element
// (2 (t % 4), t / 4) and the one below it.
namespace emu {
inline void ldmatrix(u32 (&r)[4], u32 address, bool transposed) {
  struct Given {
    u32* r;
    u32 address;
    bool transposed;
  } mine{r, address, transposed};
  warp_together("ldmatrix", &mine, [](void** all) {
    counted.ldmatrix++;
    for (int matrix = 0; matrix < 4; ++matrix) {
      u16 e[8][8];
      u32 addresses[8];
      for (int row = 0; row < 8; ++row) {
        addresses[row] = ((Given*)all[8 * matrix + row])->address;
        if (addresses[row] % 16) fail("ldmatrix: a row is not at a multiple of 16 bytes");
        memcpy(e[row], shared_at(addresses[row], 16), 16);
      }
      count_request(addresses, 8, 16);
      for (int lane = 0; lane < 32; ++lane) {
        Given* g = (Given*)all[lane];
        const int i = lane / 4, j = 2 * (lane % 4);
        g->r[matrix] = g->transposed ? e[j][i] | u32(e[j + 1][i]) << 16
                                     : e[i][j] | u32(e[i][j + 1]) << 16;
      }
    }
  });
}
}  // namespace emu
inline void ldmatrix(u32 (&r)[4], u32 address) { emu::ldmatrix(r, address, false); }
inline void ldmatrix_transposed(u32 (&r)[4], u32 address) { emu::ldmatrix(r, address, true); }

// Copy BYTES, or write zeros where `there` is false.
template <int BYTES>
void cp_async(u32 to, const void* from, bool there) {
  using namespace emu;
  char* target = shared_at(to, BYTES);
  if (to % BYTES || (uintptr_t)from % BYTES) fail("cp.async: not at a multiple of its size");
  if (lane_index() == 0) counted.cp_async++;
  count_access(to, BYTES);
  if (late) memset(target, POISON, BYTES);
  fiber().copies.issue([=] {
    if (there) memcpy(target, from, BYTES);
    else memset(target, 0, BYTES);
  });
}
inline void cp_async_commit() { emu::fiber().copies.commit(); }
template <int LEFT>
void cp_async_wait() {
  emu::fiber().copies.wait(LEFT);
}

// ---- tensor cores

// acc (16 x 8, float) += a (16 x 16) b (16 x 8). With g = lane / 4, c = 2 (lane % 4) a thread holds
//   acc[i]   row g + 8 (i / 2),  column c + i % 2
//   a[i]     row g + 8 (i % 2),  columns c + 8 (i / 2) and the next
//   b0, b1   rows c and the next, c + 8 and the next, column g
inline void mma(float (&acc)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  struct Given {
    float* acc;
    const u32* a;
    u32 b[2];
  } mine{acc, a, {b0, b1}};
  emu::warp_together("mma", &mine, [](void** all) {
    using emu::from_element;
    typedef float Row __attribute__((vector_size(32)));  // 8 columns
    emu::counted.mma++;
    float a[16][16];
    Row b[16], product[16] = {};
    for (int lane = 0; lane < 32; ++lane) {
      Given* held = (Given*)all[lane];
      const int g = lane / 4, c = 2 * (lane % 4);
      for (int e = 0; e < 2; ++e) {
        for (int i = 0; i < 4; ++i)
          a[g + 8 * (i % 2)][c + 8 * (i / 2) + e] = from_element(u16(held->a[i] >> 16 * e));
        for (int i = 0; i < 2; ++i) b[c + 8 * i + e][g] = from_element(u16(held->b[i] >> 16 * e));
      }
    }
    for (int row = 0; row < 16; ++row)
      for (int k = 0; k < 16; ++k) product[row] += a[row][k] * b[k];
    for (int lane = 0; lane < 32; ++lane) {
      Given* held = (Given*)all[lane];
      for (int i = 0; i < 4; ++i)
        held->acc[i] += product[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
    }
  });
}
