// Both matrix products on random shapes against sums in double of the same factors. Prints the largest errors, relative to
// the largest number of the result; a layout that is wrong anywhere gives an error of the order of 1.
#include <cstdio>
#include <random>

#include "gemm_bf16.h"

using namespace allometry;

static std::mt19937 generator(1);

static int between(int low, int high) { return low + static_cast<int>(generator() % (high - low + 1)); }

struct Matrix {
  int rows, columns;
  ptrdiff_t stride;
  std::vector<float> at;

  Matrix(int r, int c) : rows(r), columns(c), stride(row_stride(c)), at(r * stride + PANEL) {
    for (float& x : at) x = std::uniform_real_distribution<float>(-1.0f, 1.0f)(generator);
  }
};

static double rounded(float x, bool bf16) {
  if (!bf16) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

// B as a product may be given it: in place, packed as panels or as tiles, and each of them from B's transpose.
static Right given(const Matrix& b, bool turned, int way, bool bf16, int depth, int columns, std::vector<float>& memory) {
  const Right plain = turned ? transposed_in_place(b.at.data(), b.stride) : in_place(b.at.data(), b.stride);
  memory.resize(std::max(packed_size(depth, columns), tiled_size(depth, columns)) + PANEL);
  if (way == 0 && (bf16 || !turned)) return plain;
  if (way == 1 && bf16) {
    pack_as_tiles(plain, depth, columns, memory.data());
    return as_tiles(memory.data());
  }
  if (turned) pack_transposed(b.at.data(), b.stride, depth, columns, memory.data());
  else pack(b.at.data(), b.stride, depth, columns, memory.data());
  return packed(memory.data(), depth);
}

// C = (A B + D) * E, some of D and E being there, with A transposed or not. A may be a triangle, or a triangle of C wanted.
static double error(bool bf16, int rows, int columns, int depth) {
  const Causal causal = static_cast<Causal>(generator() % 4);
  if (causal == Causal::up_to_row || causal == Causal::from_row) depth = rows;
  if (causal == Causal::from_column) columns = rows;
  const bool transposed = causal == Causal::from_row || (causal == Causal::none && generator() % 2);
  const bool turned = generator() % 2, plus = generator() % 2, times = plus && generator() % 2;
  Matrix a(transposed ? depth : rows, transposed ? rows : depth);
  const Matrix b(turned ? columns : depth, turned ? depth : columns), d(rows, columns), e(rows, columns);
  const auto entry = [&](int i, int k) -> float& { return transposed ? a.at[k * a.stride + i] : a.at[i * a.stride + k]; };
  for (int i = 0; i < rows; i++) {
    for (int k = 0; k < depth; k++)
      if ((causal == Causal::up_to_row && k > i) || (causal == Causal::from_row && k < i)) entry(i, k) = 0.0f;
  }
  Matrix c(rows, columns);
  std::vector<float> memory;
  const Left left{a.at.data(), a.stride, transposed};
  const Right right = given(b, turned, generator() % 3, bf16, depth, columns, memory);
  const Out out{c.at.data(), c.stride, plus ? d.at.data() : nullptr, d.stride, times ? e.at.data() : nullptr};
  (bf16 ? product_bf16 : product)(rows, columns, depth, left, right, out, causal);
  double worst = 0.0;
  for (int i = 0; i < rows; i++) {
    for (int j = 0; j < (causal == Causal::from_column ? i + 1 : columns); j++) {
      double sum = plus ? d.at[i * d.stride + j] : 0.0;
      for (int k = 0; k < depth; k++) {
        const float y = turned ? b.at[j * b.stride + k] : b.at[k * b.stride + j];
        sum += rounded(entry(i, k), bf16) * rounded(y, bf16);
      }
      worst = std::max(worst, std::abs(sum * (times ? e.at[i * e.stride + j] : 1.0f) - c.at[i * c.stride + j]));
    }
  }
  return worst / std::sqrt(static_cast<double>(depth));
}

int main() {
  if (!tiles_allowed()) return std::puts("bf16 refused"), 0;
  const TilesInUse tiles(true);
  double fp32 = 0.0, bf16 = 0.0;
  for (int i = 0; i < 200; i++) {
    const int rows = between(1, i % 20 ? 130 : 700), columns = between(1, 100), depth = between(1, i % 10 ? 90 : 1200);
    fp32 = std::max(fp32, error(false, rows, columns, depth));
    bf16 = std::max(bf16, error(true, rows, columns, depth));
  }
  const float odd[] = {NAN, -NAN, INFINITY, 3e38f};
  int kept = 0;
  for (float x : odd) {
    const uint32_t bits = bf16_bits(broadcast(x))[0] << 16;
    float back;
    std::memcpy(&back, &bits, 4);
    kept += std::isnan(x) ? std::isnan(back) : std::abs(back) >= 2.9e38f;
  }
  std::printf("%g %g %d\n", fp32, bf16, kept);
}
