// Vectors of floats: as wide as the processor allows, written once for AVX-512, AVX2 and NEON.
//
// GCC's and Clang's vector extensions give arithmetic, comparisons and selection on `Vec`; what follows adds loads and
// stores of incomplete vectors, reductions and the functions that the models need: exp, GELU with its slope, sigmoid
// and tanh.
// Reductions have one fixed order, so the same machine always gives the same bits. NaN and infinity pass through
// everything here: a diverging run must be seen.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace allometry {

#if defined(__AVX512F__)
constexpr int LANES = 16;      // floats in a vector: 32 registers
constexpr int TILE_ROWS = 12;  // a tile of the matrix product is TILE_ROWS x TILE_VECS vectors, all in registers
constexpr int TILE_VECS = 2;
#elif defined(__AVX2__)
constexpr int LANES = 8;  // 16 registers: 12 for the tile, 2 for the right factor, 1 for the left one
constexpr int TILE_ROWS = 6;
constexpr int TILE_VECS = 2;
#else
constexpr int LANES = 4;  // NEON: 32 registers
constexpr int TILE_ROWS = 6;
constexpr int TILE_VECS = 4;
#endif
constexpr int PANEL = LANES * TILE_VECS;  // columns of a tile

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef Vec AnyVec __attribute__((aligned(4), may_alias));

inline Vec broadcast(float x) { return x - Vec{}; }
inline Vec load(const float* p) { return *reinterpret_cast<const AnyVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<AnyVec*>(p) = v; }

// The first `count` of LANES floats; the other lanes are `fill`.
inline Vec load(const float* p, int count, float fill = 0.0f) {
  if (count == LANES) return load(p);
  float lanes[LANES];
  for (int i = 0; i < LANES; i++) lanes[i] = i < count ? p[i] : fill;
  return load(lanes);
}

inline void store(float* p, Vec v, int count) {
  if (count == LANES) return store(p, v);
  float lanes[LANES];
  store(lanes, v);
  for (int i = 0; i < count; i++) p[i] = lanes[i];
}

inline Ints lane_numbers() {
  Ints lanes;
  for (int i = 0; i < LANES; i++) lanes[i] = i;
  return lanes;
}

// v in the first `count` lanes, `fill` in the others.
inline Vec keep(Vec v, int count, float fill = 0.0f) {
  if (count >= LANES) return v;
  return lane_numbers() < (Ints{} + count) ? v : broadcast(fill);
}

// Calls body(start, count) for every vector of n floats; count is LANES except perhaps in the last call.
template <class Body>
inline void each_vector(int n, Body body) {
  int start = 0;
  for (; start + LANES <= n; start += LANES) body(start, LANES);
  if (start < n) body(start, n - start);
}

inline float sum(Vec v) {
  float lanes[LANES];
  store(lanes, v);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

inline Vec larger(Vec a, Vec b) { return a < b ? b : a; }

inline float largest(Vec v) {
  float lanes[LANES];
  store(lanes, v);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] = lanes[i] < lanes[i + half] ? lanes[i + half] : lanes[i];
  return lanes[0];
}

// e^x with a relative error under 2e-7: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for e^r, then n into the
// exponent bits. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. Results below 1e-38 come out as 1e-38.
inline Vec exp(Vec x) {
  const Vec low = broadcast(-87.3f), high = broadcast(88.3f), magic = broadcast(12582912.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  Vec shifted = x * 1.44269504f + magic;
  Vec n = shifted - magic;
  Vec r = x - n * 0.693359375f;  // ln 2 in two parts, the first exact in few bits
  r = r + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return reinterpret_cast<Vec>(reinterpret_cast<Ints>(p) + (reinterpret_cast<Ints>(shifted) << 23));
}

struct Gelu {
  Vec value, slope;
};

// GELU(x) = x Phi(x) and its slope Phi(x) + x phi(x), Phi being the normal distribution. The error function is formula
// 7.1.26 of Abramowitz and Stegun (absolute error 1.5e-7); it shares e^(-x^2 / 2) with the slope.
inline Gelu gelu(Vec x) {
  Vec bell = exp(x * x * -0.5f);
  Vec size = x < Vec{} ? -x : x;
  Vec t = 1.0f / (size * (0.3275911f * 0.70710678f) + 1.0f);
  Vec p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  Vec tail = p * t * bell * 0.5f;  // probability of exceeding |x|
  Vec phi = x < Vec{} ? tail : 1.0f - tail;
  return {x * phi, phi + x * bell * 0.39894228f};
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// tanh with a relative error under 2e-7: 1 - 2 / (e^(2|x|) + 1) and the sign; near zero, where that loses digits, a
// polynomial in x^2 fitted to (tanh(x) / x - 1) / x^2 at Chebyshev's points of |x| < 0.625.
inline Vec tanh(Vec x) {
  const Vec size = x < Vec{} ? -x : x, square = x * x;
  Vec p = square * -6.104947945e-3f + 2.100364116e-2f;
  p = p * square - 5.385249745e-2f;
  p = p * square + 1.333278226e-1f;
  p = p * square - 3.333332910e-1f;
  const Vec far = 1.0f - 2.0f / (exp(size + size) + 1.0f);
  return size < broadcast(0.625f) ? x + x * square * p : (x < Vec{} ? -far : far);
}

}  // namespace allometry
