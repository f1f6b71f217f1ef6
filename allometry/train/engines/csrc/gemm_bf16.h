// The matrix product of gemm.h with factors rounded to bf16 and sums in fp32, on AMX tiles. A is rounded and packed once
// for all columns, B a block of columns at a time unless it comes as tiles.
#pragma once
#include <vector>

#include "bf16.h"

namespace allometry {

// The calling thread's tiles, while this lives. Other code, PyTorch's say, configures and releases them too.
class TilesInUse {
 public:
  explicit TilesInUse(bool wanted) : wanted_(wanted) {
    if (wanted_) tiles_configure();
  }
  ~TilesInUse() {
    if (wanted_) tiles_release();
  }
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;

 private:
  bool wanted_;
};

#if ALLOMETRY_TILES

// A row of tiles, from the depth that is wanted on, and how far it is from there to the next row.
struct TileRow {
  const uint16_t* at;
  ptrdiff_t next;
};

inline void multiply_tiles(TileRow a, TileRow b, int count) {
  constexpr ptrdiff_t ROW = 64;
  for (int k = 0; k < count; k++, a.at += TILE_SIZE, b.at += TILE_SIZE) {
    tile_load(4, a.at, ROW);
    tile_load(6, b.at, ROW);
    tile_multiply(0, 4, 6);
    tile_load(7, b.at + b.next, ROW);
    tile_multiply(1, 4, 7);
    tile_load(5, a.at + a.next, ROW);
    tile_multiply(2, 5, 6);
    tile_multiply(3, 5, 7);
  }
}

// Four tiles as a block of 32 x 32 numbers, in bytes from row to row.
inline void load_block(const float* from, ptrdiff_t line) {
  const float* below = from + TILE * line / static_cast<ptrdiff_t>(sizeof(float));
  tile_load(0, from, line);
  tile_load(1, from + TILE, line);
  tile_load(2, below, line);
  tile_load(3, below + TILE, line);
}

inline void store_block(float* to, ptrdiff_t line) {
  float* below = to + TILE * line / static_cast<ptrdiff_t>(sizeof(float));
  tile_store(0, to, line);
  tile_store(1, to + TILE, line);
  tile_store(2, below, line);
  tile_store(3, below + TILE, line);
}

inline void zero_block() {
  tile_zero(0);
  tile_zero(1);
  tile_zero(2);
  tile_zero(3);
}

inline void finish_block(const Out& c, int rows, int columns, const float* sums) {
  if (columns < BLOCK_SIDE) return finish_edge(c, std::min(rows, BLOCK_SIDE), columns, sums, BLOCK_SIDE);
  for (int r = 0; r < std::min(rows, BLOCK_SIDE); r++)
    for (int j = 0; j < BLOCK_SIDE; j += LANES) finish(c, r, j, load(sums + r * BLOCK_SIDE + j));
}

// A block of C, of which `rows` and `columns` are there. Where nothing but a matrix is added, the tiles start from that
// and end in C; else the sums take a way over memory.
inline void multiply_block(TileRow a, TileRow b, int count, const Out& c, int rows, int columns) {
  constexpr ptrdiff_t BYTES = sizeof(float);
  const bool direct = rows >= BLOCK_SIDE && columns >= BLOCK_SIDE && !c.times && (!c.plus || c.plus_stride != 0);
  alignas(64) float sums[BLOCK_SIDE * BLOCK_SIDE];
  tiles_fence(sums);
  if (direct && c.plus) load_block(c.plus, c.plus_stride * BYTES);
  else zero_block();
  multiply_tiles(a, b, count);
  if (direct) store_block(c.at, c.stride * BYTES);
  else store_block(sums, BLOCK_SIDE * BYTES);
  tiles_fence(sums);
  if (!direct) finish_block(c, rows, columns, sums);
}

// C = (A B + plus) * times, as `product`, with A and B rounded to bf16. The thread must have `TilesInUse`.
inline void product_bf16(int rows, int columns, int depth, Left a, Right b, Out c, Causal causal = Causal::none) {
  constexpr int CUT = 16 * TILE_DEPTH, ROW = 16 * TILE_SIZE;
  static thread_local std::vector<uint16_t> left, right(2 * ROW);
  left.resize(static_cast<size_t>(round_up(rows, BLOCK_SIDE)) / TILE * ROW);
  const float* times = c.times;
  for (int k0 = 0; k0 < depth; k0 += CUT) {
    const int k1 = std::min(depth, k0 + CUT);
    const auto first = [&](int m) { return causal == Causal::from_row ? std::min(k1, std::max(k0, m)) : k0; };
    const auto last = [&](int m) { return causal == Causal::up_to_row ? std::min(k1, m + BLOCK_SIDE) : k1; };
    if (k0 > 0) c = add_to(c.at, c.stride);
    c.times = k1 == depth ? times : nullptr;
    for (int m = 0; m < round_up(rows, BLOCK_SIDE); m += TILE) {
      const int block = m / BLOCK_SIDE * BLOCK_SIDE;
      pack_left_tiles(a, m, rows, first(block), last(block), left.data() + m / TILE * ROW);
    }
    for (int n = 0; n < columns; n += BLOCK_SIDE) {
      TileRow of_b{right.data(), ROW};
      if (b.kind == Right::tiles) {
        of_b.next = round_up(depth, TILE_DEPTH) * TILE;
        of_b.at = reinterpret_cast<const uint16_t*>(b.at) + n / TILE * of_b.next + k0 * TILE;
      } else {
        for (int j = 0; j < 2; j++) pack_right_tiles(b, n + j * TILE, columns, k0, k1, right.data() + j * ROW);
      }
      for (int m = causal == Causal::from_column ? n : 0; m < rows; m += BLOCK_SIDE) {
        const int count = (last(m) - first(m) + TILE_DEPTH - 1) / TILE_DEPTH;
        if (count <= 0 && k0 > 0) continue;
        const TileRow of_a{left.data() + m / TILE * ROW, ROW}, from{of_b.at + (first(m) - k0) * TILE, of_b.next};
        multiply_block(of_a, from, count, corner(c, m, n), rows - m, columns - n);
      }
    }
  }
}

#else

inline void product_bf16(int, int, int, Left, Right, Out, Causal = Causal::none) { __builtin_trap(); }

#endif

}  // namespace allometry
