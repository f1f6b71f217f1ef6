// The matrix product of gemm.h with factors rounded to bf16 and sums in fp32, on AMX tiles. All that is in memory stays
// fp32: factors are rounded while they are packed, A once for all columns, B a panel at a time.
//
// A block of C is 2 x 2 tiles. Tile A holds 16 rows of 32 numbers; tile B holds 16 pairs of rows, the two numbers of a
// column side by side, which is what one instruction multiplies A's neighbours with.
#pragma once
#include <vector>

#include "gemm.h"
#include "tiles.h"

namespace allometry {

#if ALLOMETRY_TILES

typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

// The upper halves of floats rounded to nearest, ties to even, in the low bits of each lane. NaN stays NaN.
inline Words bf16_bits(Vec v) {
  const Words bits = reinterpret_cast<Words>(v);
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return v == v ? rounded : Words{} + 0x7fc0;
}

// Up to LANES floats, zeros for those that are missing.
inline Vec load_some(const float* p, int count) {
  if (count >= LANES) return load(p);
  return count > 0 ? load(p, count) : Vec{};
}

// 16 rows of A as they are, of which `rows` are there and `depth` numbers of each.
inline void pack_tile_rows(const float* a, ptrdiff_t stride, int rows, int depth, uint16_t* tile) {
  for (int i = 0; i < TILE; i++) {
    for (int k = 0; k < TILE_DEPTH; k += LANES) {
      const Vec v = i < rows ? load_some(a + i * stride + k, depth - k) : Vec{};
      const Halves halves = __builtin_convertvector(bf16_bits(v), Halves);
      std::memcpy(tile + i * TILE_DEPTH + k, &halves, sizeof halves);
    }
  }
}

// 32 rows of 16 columns, of which `depth` and `columns` are there: pairs of rows, the two numbers of a column side by side.
inline void pack_tile_pairs(const float* b, ptrdiff_t stride, int depth, int columns, uint16_t* tile) {
  for (int k = 0; k < TILE_DEPTH; k += 2) {
    for (int j = 0; j < TILE; j += LANES) {
      const Vec even = k < depth ? load_some(b + k * stride + j, columns - j) : Vec{};
      const Vec odd = k + 1 < depth ? load_some(b + (k + 1) * stride + j, columns - j) : Vec{};
      const Words pairs = bf16_bits(even) | (bf16_bits(odd) << 16);
      std::memcpy(tile + k * TILE + 2 * j, &pairs, sizeof pairs);
    }
  }
}

// 16 rows of A = M^T from M: its pairs of rows, transposed as 16 x 16 pairs.
inline void pack_tile_transposed(const float* m, ptrdiff_t stride, int rows, int depth, uint16_t* tile) {
  alignas(64) uint16_t pairs[TILE * TILE_DEPTH];
  pack_tile_pairs(m, stride, depth, rows, pairs);
  for (int k = 0; k < TILE; k++)
    for (int i = 0; i < TILE; i++) std::memcpy(tile + i * TILE_DEPTH + 2 * k, pairs + k * TILE_DEPTH + 2 * i, 4);
}

constexpr int BLOCK_SIDE = 2 * TILE, TILE_SIZE = TILE * TILE_DEPTH;

// A(0 … rows, k0 … k0 + depth) as tiles: those of the first 16 rows along the depth, then those of the next. An even
// number of such rows of tiles, the last one zero if need be.
inline void pack_left_tiles(const Left& a, int rows, int k0, int depth, uint16_t* to) {
  for (int m = 0; m < round_up(rows, BLOCK_SIDE); m += TILE) {
    for (int k = 0; k < depth; k += TILE_DEPTH, to += TILE_SIZE) {
      const float* from = a.at + (a.transposed ? (k0 + k) * a.stride + m : m * a.stride + k0 + k);
      if (a.transposed) pack_tile_transposed(from, a.stride, rows - m, depth - k, to);
      else pack_tile_rows(from, a.stride, rows - m, depth - k, to);
    }
  }
}

// Columns n … n + 32 of B, depth k0 …: two rows of tiles.
inline void pack_right_tiles(const Right& b, int n, int columns, int k0, int depth, uint16_t* to) {
  for (int j = n; j < n + BLOCK_SIDE; j += TILE) {
    const float* from = b.at + j / PANEL * b.panel + j % PANEL + k0 * b.stride;
    for (int k = 0; k < depth; k += TILE_DEPTH, to += TILE_SIZE)
      pack_tile_pairs(from + k * b.stride, b.stride, depth - k, columns - j, to);
  }
}

// Sums of a 32 x 32 block of C over `count` tiles of the depth.
inline void multiply_tiles(const uint16_t* a, const uint16_t* b, int count, float* sums) {
  const uint16_t *a2 = a + count * TILE_SIZE, *b2 = b + count * TILE_SIZE;
  constexpr ptrdiff_t ROW = 64, LINE = BLOCK_SIDE * sizeof(float);
  tiles_fence(sums);
  tile_zero(0);
  tile_zero(1);
  tile_zero(2);
  tile_zero(3);
  for (int k = 0; k < count * TILE_SIZE; k += TILE_SIZE) {
    tile_load(4, a + k, ROW);
    tile_load(6, b + k, ROW);
    tile_multiply(0, 4, 6);
    tile_load(7, b2 + k, ROW);
    tile_multiply(1, 4, 7);
    tile_load(5, a2 + k, ROW);
    tile_multiply(2, 5, 6);
    tile_multiply(3, 5, 7);
  }
  tile_store(0, sums, LINE);
  tile_store(1, sums + TILE, LINE);
  tile_store(2, sums + TILE * BLOCK_SIDE, LINE);
  tile_store(3, sums + TILE * BLOCK_SIDE + TILE, LINE);
  tiles_fence(sums);
}

inline void finish_block(const Out& c, int rows, int columns, const float* sums) {
  if (columns < BLOCK_SIDE) return finish_edge(c, std::min(rows, BLOCK_SIDE), columns, sums, BLOCK_SIDE);
  for (int r = 0; r < std::min(rows, BLOCK_SIDE); r++)
    for (int j = 0; j < BLOCK_SIDE; j += LANES) finish(c, r, j, load(sums + r * BLOCK_SIDE + j));
}

// C = (A B + plus) * times, as `product`, with A and B rounded to bf16.
inline void product_bf16(int rows, int columns, int depth, Left a, Right b, Out c) {
  constexpr int CUT = 16 * TILE_DEPTH;
  static thread_local std::vector<uint16_t> left, right;
  left.resize(static_cast<size_t>(round_up(rows, BLOCK_SIDE)) * CUT);
  right.resize(BLOCK_SIDE * CUT);
  tiles_configure();  // every time: other code of this thread, PyTorch's say, configures and releases them too
  alignas(64) float sums[BLOCK_SIDE * BLOCK_SIDE];
  const float* times = c.times;
  for (int k0 = 0; k0 < depth; k0 += CUT) {
    const int part = std::min(CUT, depth - k0), count = (part + TILE_DEPTH - 1) / TILE_DEPTH;
    if (k0 > 0) c = add_to(c.at, c.stride);
    c.times = k0 + part == depth ? times : nullptr;
    pack_left_tiles(a, rows, k0, part, left.data());
    for (int n = 0; n < columns; n += BLOCK_SIDE) {
      pack_right_tiles(b, n, columns, k0, part, right.data());
      for (int m = 0; m < rows; m += BLOCK_SIDE) {
        multiply_tiles(left.data() + static_cast<size_t>(m / TILE) * count * TILE_SIZE, right.data(), count, sums);
        finish_block(corner(c, m, n), rows - m, columns - n, sums);
      }
    }
  }
  tiles_release();
}

#else

inline void product_bf16(int, int, int, Left, Right, Out) { __builtin_trap(); }  // Python does not ask for it here

#endif

}  // namespace allometry
