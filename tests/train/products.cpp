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

// C = (A B + D) * E with A transposed or not, B packed (both ways) or in place.
static double error(bool bf16, int rows, int columns, int depth) {
  const bool transposed = generator() % 2;
  const int way = generator() % 3;
  const Matrix a(transposed ? depth : rows, transposed ? rows : depth);
  const Matrix b(way == 1 ? columns : depth, way == 1 ? depth : columns);
  const Matrix d(rows, columns), e(rows, columns);
  Matrix c(rows, columns);
  std::vector<float> panels(packed_size(depth, columns) + PANEL);
  if (way == 0) pack(b.at.data(), b.stride, depth, columns, panels.data());
  if (way == 1) pack_transposed(b.at.data(), b.stride, depth, columns, panels.data());
  const Left left{a.at.data(), a.stride, transposed};
  const Right right = way == 2 ? in_place(b.at.data(), b.stride) : packed(panels.data(), depth);
  const Out out{c.at.data(), c.stride, d.at.data(), d.stride, e.at.data()};
  (bf16 ? product_bf16(rows, columns, depth, left, right, out) : product(rows, columns, depth, left, right, out));
  double worst = 0.0;
  for (int i = 0; i < rows; i++) {
    for (int j = 0; j < columns; j++) {
      double sum = d.at[i * d.stride + j];
      for (int k = 0; k < depth; k++) {
        const float x = transposed ? a.at[k * a.stride + i] : a.at[i * a.stride + k];
        const float y = way == 1 ? b.at[j * b.stride + k] : b.at[k * b.stride + j];
        sum += rounded(x, bf16) * rounded(y, bf16);
      }
      worst = std::max(worst, std::abs(sum * e.at[i * e.stride + j] - c.at[i * c.stride + j]));
    }
  }
  return worst / std::sqrt(static_cast<double>(depth));
}

int main() {
  if (!tiles_allowed()) return std::puts("bf16 refused"), 0;
  double fp32 = 0.0, bf16 = 0.0;
  for (int i = 0; i < 60; i++) {
    const int rows = between(1, 130), columns = between(1, 100), depth = between(1, i % 10 ? 90 : 1200);
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
