// Work on rows of activations: layer normalisation, sums over rows, dropout. One row is one token.
#pragma once
#include "gemm.h"

namespace allometry {

// What layer normalisation remembers of each row for its backward pass.
struct Moments {
  float* mean;
  float* scale;  // 1 / standard deviation
};

// y = (x - mean) / sqrt(variance + 1e-5) * gain + bias, over rows of d numbers (Ba et al. 2016). bias may be null.
inline void norm_forward(int rows, int d, const float* x, float* y, ptrdiff_t stride, const float* gain,
                         const float* bias, Moments moments) {
  for (int i = 0; i < rows; i++, x += stride, y += stride) {
    Vec total{}, squares{};
    each_vector(d, [&](int j, int n) { total += load(x + j, n); });
    const float mean = sum(total) / d;
    each_vector(d, [&](int j, int n) {
      const Vec off = keep(load(x + j, n) - mean, n);
      squares += off * off;
    });
    const float scale = 1.0f / std::sqrt(sum(squares) / d + 1e-5f);
    moments.mean[i] = mean;
    moments.scale[i] = scale;
    each_vector(d, [&](int j, int n) {
      Vec out = (load(x + j, n) - mean) * scale * load(gain + j, n);
      store(y + j, bias ? out + load(bias + j, n) : out, n);
    });
  }
}

// dx += the gradient through the normalisation of dy; gradients of gain and bias are added up.
inline void norm_backward(int rows, int d, const float* x, const float* dy, float* dx, ptrdiff_t stride,
                          const float* gain, Moments moments, float* gain_grad, float* bias_grad) {
  for (int i = 0; i < rows; i++, x += stride, dy += stride, dx += stride) {
    const float mean = moments.mean[i], scale = moments.scale[i];
    Vec total{}, along{};
    each_vector(d, [&](int j, int n) {
      const Vec unit = (load(x + j, n) - mean) * scale, slope = load(dy + j, n);
      store(gain_grad + j, load(gain_grad + j, n) + slope * unit, n);
      if (bias_grad) store(bias_grad + j, load(bias_grad + j, n) + slope, n);
      const Vec g = slope * load(gain + j, n);  // zero in missing lanes
      total += g;
      along += g * unit;
    });
    const float shift = sum(total) / d, tilt = sum(along) / d;
    each_vector(d, [&](int j, int n) {
      const Vec unit = (load(x + j, n) - mean) * scale, g = load(dy + j, n) * load(gain + j, n);
      store(dx + j, load(dx + j, n) + scale * (g - shift - unit * tilt), n);
    });
  }
}

// total += the sum of the rows: the gradient of a bias.
inline void add_rows(int rows, int columns, const float* x, ptrdiff_t stride, float* total) {
  if (!total) return;
  for (int i = 0; i < rows; i++)
    each_vector(columns, [&](int j, int n) { store(total + j, load(total + j, n) + load(x + i * stride + j, n), n); });
}

// Dropout whose mask is a function of (seed, step, place in the model, token, column): forward and backward make it
// twice instead of storing it, and a resumed run draws the same one.
struct Dropout {
  float p = 0.0f;
  uint64_t key = 0;  // of seed and step

  bool on() const { return p > 0.0f; }

  // The mask's stream for one place in the model and one sequence of the batch.
  uint64_t stream(uint64_t place, uint64_t sequence) const { return mix64(key ^ mix64(place << 32 ^ sequence)); }

  // y = x * mask / (1 - p) for one row of `columns` numbers. y may be x.
  void row(uint64_t stream, uint32_t row, int columns, const float* x, float* y) const {
    const uint64_t of_row = mix64(stream + row);
    const uint32_t add = static_cast<uint32_t>(of_row), flip = static_cast<uint32_t>(of_row >> 32);
    const uint32_t bound = static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0);
    const float scale = 1.0f / (1.0f - p);
    each_vector(columns, [&](int j, int n) {
      const Words counter = reinterpret_cast<Words>(lane_numbers() + j);
      const Words bits = mix32(mix32(counter + add) ^ flip);
      store(y + j, (bits < (Words{} + bound)) ? Vec{} : load(x + j, n) * scale, n);
    });
  }

  static uint64_t mix64(uint64_t x) {  // the finaliser of SplitMix64
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

  static Words mix32(Words x) {  // two rounds of multiply and xor-shift
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
  }
};

}  // namespace allometry
