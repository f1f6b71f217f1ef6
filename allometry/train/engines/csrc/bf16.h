// Numbers rounded to bf16 and packed into tiles (tiles.h). All that is in memory stays fp32; only factors of products are
// rounded.
//
// A tile of A holds 16 rows of 32 numbers. A tile of B holds 16 pairs of rows, the two numbers of a column side by side,
// which is what one instruction multiplies A's neighbours with. As 16 x 16 pairs, a tile of A = M^T is the
// transpose of a tile of B = M, and the other way round.
#pragma once
#include "gemm.h"
#include "tiles.h"

namespace allometry {

constexpr int TILE_SIZE = TILE * TILE_DEPTH, BLOCK_SIDE = 2 * TILE;

// Floats of memory that B of this shape takes as tiles.
inline size_t tiled_size(int depth, int columns) {
  return static_cast<size_t>(round_up(depth, TILE_DEPTH)) * round_up(columns, BLOCK_SIDE) / 2;
}

#if ALLOMETRY_TILES

typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

// The upper halves of floats rounded to nearest, ties to even, in the low bits of each lane. NaN stays NaN.
inline Words bf16_bits(Vec v) {
  const Words bits = reinterpret_cast<Words>(v);
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return v == v ? rounded : Words{} + 0x7fc0;
}

#if defined(__AVX512BF16__) && !defined(ALLOMETRY_EMULATE_AMX)  // the same in one instruction, but that 1e-39 becomes 0

inline Halves halves_of(Vec v) { return reinterpret_cast<Halves>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v))); }

// In each lane the number of `even` in the low half, that of `odd` in the high one.
inline Words pairs_of(Vec even, Vec odd) {
  typedef uint16_t Order __attribute__((vector_size(64)));
  constexpr Order order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                           8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(odd), reinterpret_cast<__m512>(even));
  return reinterpret_cast<Words>(
      _mm512_permutexvar_epi16(reinterpret_cast<__m512i>(order), reinterpret_cast<__m512i>(both)));
}

#else

inline Halves halves_of(Vec v) { return __builtin_convertvector(bf16_bits(v), Halves); }
inline Words pairs_of(Vec even, Vec odd) { return bf16_bits(even) | (bf16_bits(odd) << 16); }

#endif

// Up to LANES floats, zeros for those that are missing.
inline Vec load_some(const float* p, int count) {
  if (count >= LANES) return load(p);
  return count > 0 ? load(p, count) : Vec{};
}

// 16 rows of up to 32 numbers, of which `rows` are there and `depth` numbers of each.
inline void pack_tile_rows(const float* m, ptrdiff_t stride, int rows, int depth, uint16_t* tile) {
  for (int i = 0; i < TILE; i++) {
    for (int k = 0; k < TILE_DEPTH; k += LANES) {
      const Halves halves = halves_of(i < rows ? load_some(m + i * stride + k, depth - k) : Vec{});
      std::memcpy(tile + i * TILE_DEPTH + k, &halves, sizeof halves);
    }
  }
}

// 32 rows of 16 columns, of which `depth` and `columns` are there, as pairs of rows.
inline void pack_tile_pairs(const float* m, ptrdiff_t stride, int depth, int columns, uint16_t* tile) {
  for (int k = 0; k < TILE_DEPTH; k += 2) {
    for (int j = 0; j < TILE; j += LANES) {
      const Vec even = k < depth ? load_some(m + k * stride + j, columns - j) : Vec{};
      const Vec odd = k + 1 < depth ? load_some(m + (k + 1) * stride + j, columns - j) : Vec{};
      const Words pairs = pairs_of(even, odd);
      std::memcpy(tile + k * TILE + 2 * j, &pairs, sizeof pairs);
    }
  }
}

// Transposes 16 x 16 pairs.
inline void transpose_pairs(const uint16_t* from, uint16_t* to) {
  const float* in = reinterpret_cast<const float*>(from);
  float* out = reinterpret_cast<float*>(to);
  for (int i = 0; i < TILE; i += 4)
    for (int k = 0; k < TILE; k += 4) transpose_4x4(in + i * TILE + k, TILE, out + k * TILE + i, TILE);
}

// A tile of A = M^T from M, of which `depth` rows and `rows` columns are there.
inline void pack_tile_left_transposed(const float* m, ptrdiff_t stride, int rows, int depth, uint16_t* tile) {
  alignas(64) uint16_t pairs[TILE_SIZE];
  pack_tile_pairs(m, stride, depth, rows, pairs);
  transpose_pairs(pairs, tile);
}

// A tile of B = M^T from M, of which `columns` rows and `depth` columns are there.
inline void pack_tile_right_transposed(const float* m, ptrdiff_t stride, int depth, int columns, uint16_t* tile) {
  alignas(64) uint16_t rows[TILE_SIZE];
  pack_tile_rows(m, stride, columns, depth, rows);
  transpose_pairs(rows, tile);
}

// A(m … m + 16, k0 … k1), of `rows` rows, as tiles along the depth.
inline void pack_left_tiles(const Left& a, int m, int rows, int k0, int k1, uint16_t* to) {
  for (int k = k0; k < k1; k += TILE_DEPTH, to += TILE_SIZE) {
    if (a.transposed) pack_tile_left_transposed(a.at + k * a.stride + m, a.stride, rows - m, k1 - k, to);
    else pack_tile_rows(a.at + m * a.stride + k, a.stride, rows - m, k1 - k, to);
  }
}

// B(k0 … k1, n … n + 16), of `columns` columns, as tiles along the depth.
inline void pack_right_tiles(const Right& b, int n, int columns, int k0, int k1, uint16_t* to) {
  for (int k = k0; k < k1; k += TILE_DEPTH, to += TILE_SIZE) {
    if (b.kind == Right::transposed) {
      pack_tile_right_transposed(b.at + n * b.stride + k, b.stride, k1 - k, columns - n, to);
    } else {
      const float* from = b.at + n / PANEL * b.panel + n % PANEL + k * b.stride;
      pack_tile_pairs(from, b.stride, k1 - k, columns - n, to);
    }
  }
}

// All of B as tiles, for products that need it often: the tiles of 16 columns along the depth, then those of the next.
inline void pack_as_tiles(const Right& b, int depth, int columns, float* to) {
  uint16_t* tiles = reinterpret_cast<uint16_t*>(to);
  const int each = round_up(depth, TILE_DEPTH) * TILE;
  for (int n = 0; n < round_up(columns, BLOCK_SIDE); n += TILE, tiles += each)
    pack_right_tiles(b, n, columns, 0, depth, tiles);
}

#else

inline void pack_as_tiles(const Right&, int, int, float*) { __builtin_trap(); }  // Python does not ask for it here

#endif

}  // namespace allometry
