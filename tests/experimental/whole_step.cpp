// A few training steps of a small transformer and a small LSTM in one program, for processors that only an emulator has
// here: prints losses and gradient norms, which must be those of the same program on this processor.
#include <cstdio>

#include "step.cpp"

using namespace allometry;

struct Flat {
  std::vector<int64_t> bounds{0}, offsets;
  std::vector<uint8_t> shrinks;

  void add(int64_t size, bool matrix) {
    offsets.push_back(bounds.back());
    bounds.push_back(bounds.back() + size);
    shrinks.push_back(matrix);
  }
  void none() { offsets.push_back(-1); }
};

static uint32_t state = 1;
static float small() {
  state = state * 1664525u + 1013904223u;
  return (static_cast<float>(state >> 8) / (1 << 23) - 1.0f) * 0.3f;
}

static void train(const char* name, int32_t family, const Shape& shape, const Flat& flat) {
  const int64_t size = flat.bounds.back();
  std::vector<float> params(size), first(size), second(size), gradients(size);
  for (float& p : params) p = small();
  std::vector<int32_t> windows(5 * (shape.context + 1));
  for (int32_t& token : windows) small(), token = static_cast<int32_t>(state >> 16) % shape.vocab;
  const Batch batch{windows.data(), 5, shape.context, nullptr, nullptr};
  void* model = allometry_new(family, &shape, flat.offsets.data(), flat.bounds.data(), flat.shrinks.data(),
                              static_cast<int32_t>(flat.shrinks.size()), params.data(), first.data(), second.data(),
                              gradients.data());
  for (int step = 1; step <= 4; step++) {
    const Adam adam{1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 1e-6f, step};
    double norm = 0.0;
    const double loss = allometry_step(model, &batch, &adam, &norm);
    std::printf("%s %.9g %.9g\n", name, loss, norm);
  }
  allometry_free(model);
}

static Flat transformer(int d, int f, int vocab, int context) {
  Flat flat;
  flat.add(vocab * d, true), flat.add(context * d, true), flat.add(d, false), flat.none();
  for (int l = 0; l < 2; l++) {
    for (int64_t size : {d, 0, 3 * d * d, 3 * d, d * d, 0, d, 0, f * d, f, d * f, 0}) {
      if (size) flat.add(size, size > 3 * d);
      else flat.none();
    }
  }
  return flat;
}

static Flat lstm(int d, int vocab) {
  Flat flat;
  flat.add(vocab * d, true);
  for (int l = 0; l < 2; l++) flat.add(4 * d * d, true), flat.add(4 * d * d, true), flat.add(4 * d, false);
  return flat;
}

int main() {
  train("transformer", TRANSFORMER, {2, 40, 5, 70, 37, 19, 2, 0, 0, 0.1f, 7}, transformer(40, 70, 37, 19));
  train("lstm", LSTM, {2, 40, 0, 0, 37, 19, 2, 0, 0, 0.1f, 7}, lstm(40, 37));
#if ALLOMETRY_TILES
  if (!allometry_has_bf16()) return std::puts("bf16 refused"), 0;
  train("bf16", TRANSFORMER, {2, 40, 5, 70, 37, 19, 1, 0, 1, 0.0f, 7}, transformer(40, 70, 37, 19));
  train("bf16-threads", TRANSFORMER, {2, 51, 3, 101, 61, 33, 3, 0, 1, 0.1f, 7}, transformer(51, 101, 61, 33));
  train("bf16-deep", TRANSFORMER, {2, 24, 3, 530, 61, 17, 2, 0, 1, 0.0f, 7}, transformer(24, 530, 61, 17));
#endif
}
