// One training step of a small language model on a CPU, behind a plain C interface.
//
// A few sequences at a time go forward through all layers and backward again, so that their activations stay in the
// caches; gradients add up in fp32; then one flat pass clips and updates. Each thread takes every n-th group of
// sequences with buffers of its own, and the sums over threads have a fixed order: a given number of threads
// always gives the same bits.
#include <thread>

#include "lstm.h"
#include "transformer.h"

namespace allometry {

// Runs body(thread) on `threads` threads, the first of them this one.
template <class Body>
void on_threads(int threads, Body body) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(body, t);
  body(0);
  for (std::thread& other : others) other.join();
}

// The batch's total loss; in training, m.gradients receives its gradient.
double run_batch(Network& m, const Batch& batch, bool training, const Dropout& dropout) {
  const int threads = m.shape.threads, together = m.together(batch.sequences);
  on_threads(threads, [&](int t) {
    Worker& w = m.worker(t);
    w.loss = 0.0;
    if (training) std::memset(w.gradients, 0, m.size * sizeof(float));
    for (int64_t first = static_cast<int64_t>(t) * together; first < batch.sequences; first += threads * together) {
      const int count = static_cast<int>(std::min<int64_t>(together, batch.sequences - first));
      m.run(t, Group{count, batch.length, first, training, dropout}, batch);
    }
  });
  double loss = 0.0;
  for (int t = 0; t < threads; t++) loss += m.worker(t).loss;
  for (int t = 1; training && t < threads; t++) add_rows(1, m.size, m.worker(t).gradients, 0, m.gradients);
  return loss;
}

// The norm of the gradient of each sequence's own mean loss, for the gradient noise scale.
void sequence_norms(Network& m, const Batch& batch, const Dropout& dropout, double* norms) {
  const int threads = m.shape.threads;
  on_threads(threads, [&](int t) {
    for (int64_t i = t; i < batch.sequences; i += threads) {
      float* gradients = m.worker(t).gradients;
      std::memset(gradients, 0, m.size * sizeof(float));
      m.run(t, Group{1, batch.length, i, true, dropout}, batch);
      norms[i] = std::sqrt(sum_of_squares(gradients, m.size)) * static_cast<double>(batch.sequences);
    }
  });
}

void update(Network& m, const Adam& adam, double norm) {
  const float scale = norm > adam.clip ? static_cast<float>(adam.clip / (norm + adam.clip_epsilon)) : 1.0f;
  for (size_t i = 0; i + 1 < m.bounds.size(); i++) {
    const int64_t at = m.bounds[i];
    adam_update(adam, scale, m.shrinks[i], m.bounds[i + 1] - at, m.params + at, m.first + at, m.second + at,
                m.gradients + at);
  }
}

Dropout dropout_at(const Network& m, int64_t step) {
  return {m.shape.dropout, Dropout::mix64(m.shape.seed ^ Dropout::mix64(static_cast<uint64_t>(step)))};
}

enum Family : int32_t { TRANSFORMER = 0, LSTM = 1 };  // numbered as in bindings.py

std::unique_ptr<Network> make(int32_t family, const Shape& shape, const int64_t* offsets) {
  if (family == LSTM) return std::make_unique<Lstm>(offsets, shape.layers);
  return std::make_unique<Transformer>(offsets, shape.layers);
}

}  // namespace allometry

using allometry::Adam;
using allometry::Batch;
using allometry::Network;

extern "C" {

// Whether this machine multiplies in bf16: the processor has the tiles and the system lets this process use them.
int32_t allometry_has_bf16() { return allometry::tiles_allowed(); }

// A model over the caller's flat buffers of `bounds[tensors]` floats each; null if memory runs out. `offsets` says
// where the family's parameters start.
void* allometry_new(int32_t family, const allometry::Shape* shape, const int64_t* offsets, const int64_t* bounds,
                    const uint8_t* shrinks, int32_t tensors, float* params, float* first, float* second,
                    float* gradients) try {
  auto m = allometry::make(family, *shape, offsets);
  m->shape = *shape;
  m->bounds.assign(bounds, bounds + tensors + 1);
  m->shrinks.assign(shrinks, shrinks + tensors);
  m->size = bounds[tensors];
  m->params = params, m->first = first, m->second = second, m->gradients = gradients;
  m->allocate();
  m->pack_weights();
  return m.release();
} catch (...) {
  return nullptr;
}

void allometry_free(void* model) { delete static_cast<Network*>(model); }

// To be called after the caller has changed `params`.
void allometry_changed(void* model) { static_cast<Network*>(model)->pack_weights(); }

// Fills `gradients` without an update; returns the loss. `step` decides the dropout masks.
double allometry_gradients(void* model, const Batch* batch, int64_t step) {
  Network& m = *static_cast<Network*>(model);
  return allometry::run_batch(m, *batch, true, allometry::dropout_at(m, step));
}

// Norms of each sequence's gradient: (sequences,). `gradients` is overwritten.
void allometry_sequence_norms(void* model, const Batch* batch, int64_t step, double* norms) {
  Network& m = *static_cast<Network*>(model);
  allometry::sequence_norms(m, *batch, allometry::dropout_at(m, step), norms);
}

// One update; returns the loss before it. `norm` receives the global gradient norm before clipping.
double allometry_step(void* model, const Batch* batch, const Adam* adam, double* norm) {
  Network& m = *static_cast<Network*>(model);
  const double loss = allometry_gradients(model, batch, adam->step);
  *norm = std::sqrt(allometry::sum_of_squares(m.gradients, m.size));
  allometry::update(m, *adam, *norm);
  m.pack_weights();
  return loss;
}

// Losses of every position without dropout or gradients.
void allometry_losses(void* model, const Batch* batch) {
  allometry::run_batch(*static_cast<Network*>(model), *batch, false, allometry::Dropout{});
}

}  // extern "C"
