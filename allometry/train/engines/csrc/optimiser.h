// The update: global gradient norm, clipping and AdamW (Loshchilov and Hutter 2019) in one pass over flat buffers.
#pragma once
#include <algorithm>

#include "vector.h"

namespace allometry {

struct Adam {
  float lr, beta1, beta2, epsilon, decay;
  float clip, clip_epsilon;  // largest global gradient norm, infinity for none; added to the norm before dividing by it
  int64_t step;              // counts from 1
};

// Sum of squares: in vectors over blocks, the blocks in double, always in the same order.
inline double sum_of_squares(const float* x, int64_t n) {
  constexpr int64_t BLOCK = 4096;
  double total = 0.0;
  for (int64_t start = 0; start < n; start += BLOCK) {
    Vec squares{};
    each_vector(static_cast<int>(std::min(BLOCK, n - start)), [&](int j, int count) {
      const Vec v = load(x + start + j, count);
      squares += v * v;
    });
    total += sum(squares);
  }
  return total;
}

// One update of n parameters; `shrink` says whether weight decay falls on them. `grad` is scaled by `scale` first.
inline void adam_update(const Adam& adam, float scale, bool shrink, int64_t n, float* param, float* first,
                        float* second, const float* grad) {
  const double unbias1 = 1.0 - std::pow(static_cast<double>(adam.beta1), static_cast<double>(adam.step));
  const double unbias2 = 1.0 - std::pow(static_cast<double>(adam.beta2), static_cast<double>(adam.step));
  const float rate = static_cast<float>(adam.lr / unbias1), root = static_cast<float>(1.0 / std::sqrt(unbias2));
  const float kept = shrink ? static_cast<float>(1.0 - static_cast<double>(adam.lr) * adam.decay) : 1.0f;
  const float b1 = adam.beta1, b2 = adam.beta2, epsilon = adam.epsilon;
  for (int64_t i = 0; i < n; i += LANES) {
    const int count = static_cast<int>(std::min<int64_t>(LANES, n - i));
    const Vec g = load(grad + i, count) * scale;
    const Vec m = load(first + i, count) * b1 + g * (1.0f - b1);
    const Vec v = load(second + i, count) * b2 + g * g * (1.0f - b2);
    Vec deviation{};
    for (int lane = 0; lane < LANES; lane++) deviation[lane] = std::sqrt(v[lane]);
    store(first + i, m, count);
    store(second + i, v, count);
    store(param + i, load(param + i, count) * kept - rate * m / (deviation * root + epsilon), count);
  }
}

}  // namespace allometry
