// The matrix product in fp32: C = A B and what follows it, tile by tile in registers.
//
// A tile is TILE_ROWS x PANEL numbers of C. For each step along the depth it multiplies one column of A (one number per
// row, broadcast) with one row of B (TILE_VECS vectors). B is either packed, as panels of PANEL columns that lie one
// after the other, or read in place from a row-major matrix. A is read in place, as it is or transposed: this
// gives all three products of training, Y = X W^T, dX = dY W and dW += dY^T X, with one driver.
#pragma once
#include <algorithm>

#include "vector.h"

namespace allometry {

struct Left {  // A(i, k): at[i * stride + k], or at[k * stride + i] if transposed
  const float* at;
  ptrdiff_t stride;
  bool transposed;
};

struct Right {  // B(k, n + j): at[(n / PANEL) * panel + k * stride + j], with n a multiple of PANEL
  const float* at;
  ptrdiff_t stride, panel;
  enum { plain, transposed, tiles } kind = plain;  // for bf16 only: B(k, n) is at[n * stride + k]; see pack_as_tiles
};

struct Out {  // C(i, j): at[i * stride + j]
  float* at;
  ptrdiff_t stride;
  const float* plus = nullptr;   // added, if not null: C itself, a residual, or (stride 0) a bias
  ptrdiff_t plus_stride = 0;
  const float* times = nullptr;  // multiplied with, if not null; laid out like C
};

inline Left rows_of(const float* at, ptrdiff_t stride) { return {at, stride, false}; }
inline Left columns_of(const float* at, ptrdiff_t stride) { return {at, stride, true}; }
inline Right in_place(const float* at, ptrdiff_t stride) { return {at, stride, PANEL}; }
inline Right transposed_in_place(const float* at, ptrdiff_t stride) { return {at, stride, 0, Right::transposed}; }
inline Right as_tiles(const float* at) { return {at, 0, 0, Right::tiles}; }
inline Right packed(const float* at, ptrdiff_t depth) { return {at, PANEL, depth * PANEL}; }
inline Out into(float* at, ptrdiff_t stride) { return {at, stride}; }
inline Out add_to(float* at, ptrdiff_t stride) { return {at, stride, at, stride}; }
inline Out plus(float* at, ptrdiff_t stride, const float* residual) { return {at, stride, residual, stride}; }
inline Out plus_bias(float* at, ptrdiff_t stride, const float* bias) { return {at, stride, bias, 0}; }
inline Out times(float* at, ptrdiff_t stride, const float* factors) { return {at, stride, nullptr, 0, factors}; }

// Which part of the depth (0 <= k < depth) matters in row i: causal attention has triangular factors.
enum class Causal {
  none,        // all of it
  up_to_row,   // k <= i: A is lower triangular
  from_row,    // k >= i: A is upper triangular
  from_column  // rows above the column's panel are not computed: C is lower triangular
};

constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

// Row length of a buffer for n columns. A tile may read one panel too far. An odd number of cache lines keeps the rows of
// a power-of-two width from falling on the same few sets of the first-level cache.
constexpr int row_stride(int n) { return round_up(n, 32) + 16 + (PANEL > 16 ? 32 : 0); }

// What becomes of the sums of row r, from column j of the tile on.
__attribute__((always_inline)) inline void finish(const Out& c, int r, int j, Vec sums) {
  if (c.plus) sums += load(c.plus + r * c.plus_stride + j);
  if (c.times) sums *= load(c.times + r * c.stride + j);
  store(c.at + r * c.stride + j, sums);
}

// The same at the right edge of C, where a tile is only `width` columns wide. Rare, so small rather than quick.
__attribute__((noinline)) inline void finish_edge(const Out& c, int rows, int width, const float* sums, int stride) {
  for (int r = 0; r < rows; r++) {
    for (int j = 0; j < width; j++) {
      float sum = sums[r * stride + j];
      if (c.plus) sum += c.plus[r * c.plus_stride + j];
      if (c.times) sum *= c.times[r * c.stride + j];
      c.at[r * c.stride + j] = sum;
    }
  }
}

// A tile of C: sums over `depth` in registers. `width` is less than the tile's at the right edge of C.
template <int ROWS, int VECS, bool TRANSPOSED>
void tile(int depth, const float* a, ptrdiff_t a_stride, const float* b, ptrdiff_t b_stride, const Out& c, int width) {
  Vec sums[ROWS][VECS] = {};
  for (int k = 0; k < depth; k++) {
    Vec right[VECS];
#pragma GCC unroll 4
    for (int v = 0; v < VECS; v++) right[v] = load(b + k * b_stride + v * LANES);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
      const Vec left = broadcast(TRANSPOSED ? a[k * a_stride + r] : a[r * a_stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < VECS; v++) sums[r][v] += left * right[v];
    }
  }
  if (width == VECS * LANES) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
      for (int v = 0; v < VECS; v++) finish(c, r, v * LANES, sums[r][v]);
  } else {
    float edge[ROWS * VECS * LANES];  // a copy: the address of `sums` itself would force them out of their registers
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
      for (int v = 0; v < VECS; v++) store(edge + (r * VECS + v) * LANES, sums[r][v]);
    finish_edge(c, ROWS, width, edge, VECS * LANES);
  }
}

using Tile = void (*)(int, const float*, ptrdiff_t, const float*, ptrdiff_t, const Out&, int);

// The compiled tile of that many rows and vectors.
template <int ROWS, int VECS>
inline Tile find_tile(int rows, int vecs, bool transposed) {
  if constexpr (ROWS > 1) {
    if (rows < ROWS) return find_tile<ROWS - 1, VECS>(rows, vecs, transposed);
  }
  if constexpr (VECS > 1) {
    if (vecs < VECS) return find_tile<ROWS, VECS - 1>(rows, vecs, transposed);
  }
  return transposed ? tile<ROWS, VECS, true> : tile<ROWS, VECS, false>;
}

// How many rows the next tile takes when `left` remain: a remainder is split evenly over the last two tiles, since
// a tile of one or two rows cannot keep the multipliers busy.
inline int next_rows(int left) {
  if (left <= TILE_ROWS) return left;
  return left >= 2 * TILE_ROWS ? TILE_ROWS : (left + 1) / 2;
}

// The part of C that starts at (m, n).
inline Out corner(const Out& c, ptrdiff_t m, ptrdiff_t n) {
  return {c.at + m * c.stride + n, c.stride, c.plus ? c.plus + m * c.plus_stride + n : nullptr, c.plus_stride,
          c.times ? c.times + m * c.stride + n : nullptr};
}

// What one panel of B contributes to rows [m, end) of C, for first <= k < last of the depth as `causal` allows.
inline void multiply_panel(int m, int end, int k0, int k1, Left a, const float* b, ptrdiff_t b_stride, const Out& c,
                           int n, int width, Causal causal) {
  const int vecs = (width + LANES - 1) / LANES;
  const Tile full = find_tile<TILE_ROWS, TILE_VECS>(TILE_ROWS, vecs, a.transposed);
  for (int count; m < end; m += count) {
    count = next_rows(end - m);
    const int first = causal == Causal::from_row ? std::max(k0, m) : k0;
    const int last = causal == Causal::up_to_row ? std::min(k1, m + count) : k1;
    if (first >= last && k0 > 0) continue;
    const Tile run = count == TILE_ROWS ? full : find_tile<TILE_ROWS, TILE_VECS>(count, vecs, a.transposed);
    const float* left = a.at + (a.transposed ? first * a.stride + m : m * a.stride + first);
    run(last - first, left, a.stride, b + first * b_stride, b_stride, corner(c, m, n), width);
  }
}

// C = (A B + plus) * times, C of shape (rows, columns). Depth and rows are cut so that a panel of B stays in the
// first-level cache while rows of A pass by it, and these rows in the second-level cache for the panels that follow.
inline void product(int rows, int columns, int depth, Left a, Right b, Out c, Causal causal = Causal::none) {
  constexpr int CUT = 4096 / PANEL, BLOCK = 16 * TILE_ROWS;
  const float* times = c.times;
  for (int k0 = 0; k0 < depth; k0 += CUT) {
    const int k1 = std::min(depth, k0 + CUT);
    if (k0 > 0) c = add_to(c.at, c.stride);
    c.times = k1 == depth ? times : nullptr;
    for (int m = 0; m < rows; m += BLOCK) {
      const int end = rows - m < 2 * BLOCK ? rows : m + BLOCK;
      for (int n = 0; n < columns; n += PANEL) {
        const int start = causal == Causal::from_column ? std::max(m, n) : m;
        multiply_panel(start, end, k0, k1, a, b.at + n / PANEL * b.panel, b.stride, c, n, std::min(PANEL, columns - n),
                       causal);
      }
      if (end == rows) break;
    }
  }
}

// Floats that a packed matrix of this shape takes.
inline size_t packed_size(int depth, int columns) { return static_cast<size_t>(round_up(columns, PANEL)) * depth; }

// Packs B from a row-major (depth, columns) matrix. Missing columns of the last panel are left as they are (zero).
inline void pack(const float* matrix, ptrdiff_t stride, int depth, int columns, float* to) {
  for (int n = 0; n < columns; n += PANEL) {
    const int width = std::min(PANEL, columns - n);
    float* panel = to + static_cast<size_t>(n) * depth;
    for (int k = 0; k < depth; k++) std::memcpy(panel + k * PANEL, matrix + k * stride + n, width * sizeof(float));
  }
}

typedef float Quad __attribute__((vector_size(16)));
typedef Quad AnyQuad __attribute__((aligned(4), may_alias));

inline void transpose_4x4(const float* from, ptrdiff_t stride, float* to, ptrdiff_t to_stride) {
  Quad r[4];
  for (int i = 0; i < 4; i++) r[i] = *reinterpret_cast<const AnyQuad*>(from + i * stride);
  const Quad a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  const Quad c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  *reinterpret_cast<AnyQuad*>(to) = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  *reinterpret_cast<AnyQuad*>(to + to_stride) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  *reinterpret_cast<AnyQuad*>(to + 2 * to_stride) = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  *reinterpret_cast<AnyQuad*>(to + 3 * to_stride) = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

// Packs B = M^T from a row-major matrix M of shape (columns, depth).
inline void pack_transposed(const float* matrix, ptrdiff_t stride, int depth, int columns, float* to) {
  for (int n = 0; n < columns; n += PANEL) {
    const int width = std::min(PANEL, columns - n);
    float* panel = to + static_cast<size_t>(n) * depth;
    const int quads = width / 4 * 4, deep = depth / 4 * 4;
    for (int j = 0; j < quads; j += 4)
      for (int k = 0; k < deep; k += 4)
        transpose_4x4(matrix + (n + j) * stride + k, stride, panel + k * PANEL + j, PANEL);
    for (int j = 0; j < width; j++)
      for (int k = j < quads ? deep : 0; k < depth; k++) panel[k * PANEL + j] = matrix[(n + j) * stride + k];
  }
}

}  // namespace allometry
